"""Small files for a smoke test of every evaluation command."""

from pathlib import Path

from vtp_eqx.config import TextConfig, TokenizerConfig, VIT_FEMTO
from vtp_eqx.data.text.caption_bpe import train_tokenizer
from vtp_eqx.scenes.render import class_names, render, SceneConfig, write_folders


TOKENIZER = TokenizerConfig(
    encoder=VIT_FEMTO,
    decoder=VIT_FEMTO,
    text=TextConfig(context=16, vocabulary=400, width=16, depth=1, num_heads=1),
    image_size=32,
    patch_size=8,
)


def write_smoke_files(folder: Path) -> list[list[str]]:
    """Writes images, words, names and templates; the arguments of every command.

    They expect a tokenizer of the config `TOKENIZER` at `tokenizer` in the folder.
    """
    scenes = SceneConfig()
    train, data = folder / "train", folder / "validation"
    reference = folder / "real.npz"
    write_folders(render(scenes, scenes.train_indices[:96]), train)
    write_folders(render(scenes, scenes.validation_indices[:48]), data)
    names = class_names()
    train_tokenizer(names, 400).save(folder / "words.json")
    (folder / "classes.txt").write_text("\n".join(sorted(names)))
    (folder / "templates.txt").write_text("a photo of a {}.\na drawing of the {}.")
    few = f"--out {folder / 'out'} --batch-size 16 --devices 1"
    tokenizer = f"--tokenizer {folder / 'tokenizer'} --data {data} {few}"
    lines = (
        f"rfid {tokenizer}",
        f"zero-shot {tokenizer} --precision bfloat16 --classes {folder}/classes.txt "
        f"--words {folder}/words.json --templates {folder}/templates.txt",
        f"probe {tokenizer} --train {train} --config.batch-size 32 "
        "--config.num-epochs 2 --config.epoch-steps 3",
        f"probe {tokenizer} --train {train} --fit lbfgs",
        f"neighbors {tokenizer} --train {train} --counts 1 5",
        f"diagnose {tokenizer} --network scene-network",
        f"reference --data {train} {few} --file {reference} --size 32 --keep-features",
        f"gfid --data {data} {few} --num-samples 48 --reference {reference} --size 32 "
        "--origin scenes",
    )
    return [line.split() for line in lines]
