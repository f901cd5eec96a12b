"""Loss terms, a file each; `vtp_eqx.training.terms.term` says what one is."""
