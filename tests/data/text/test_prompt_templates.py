from vtp_eqx.data.text.prompt_templates import IMAGENET_TEMPLATES


def test_each_of_80_prompts_names_the_class_once_and_is_unlike_the_others():
    prompts = [template.format("{tench}") for template in IMAGENET_TEMPLATES]
    assert len(set(prompts)) == 80
    assert all(prompt.count("{tench}") == 1 for prompt in prompts)
    assert all(prompt.isascii() and prompt == prompt.strip() for prompt in prompts)
