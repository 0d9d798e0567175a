"""Small transformers models with random weights, and functions that call them."""

import torch
import transformers as hf

WORDS = 50
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
IMAGES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 8,
    "patch_size": 4,
}
T5 = {
    "vocab_size": WORDS,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
BART = {
    "vocab_size": WORDS,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 40,
}


def words(batch=3, length=7):
    """Token ids without padding tokens, and an attention mask for examples of three lengths."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(5, WORDS, (batch, length), generator=generator)
    lengths = torch.tensor([length, length - 2, length - 4])[:batch, None]
    return ids, (torch.arange(length) < lengths).long()


def call_encoder(model):
    ids, attention_mask = words()
    return [model(input_ids=ids, attention_mask=attention_mask).last_hidden_state], []


def call_images(model):
    images = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    images.requires_grad_()
    return [model(pixel_values=images).last_hidden_state], [images]


def call_both(model):
    ids, attention_mask = words()
    result = model(
        input_ids=ids,
        attention_mask=attention_mask,
        decoder_input_ids=ids[:, :5].flip(1),
        decoder_attention_mask=attention_mask[:, :5],
        use_cache=False,
    )
    return [result.last_hidden_state, result.encoder_last_hidden_state], []


def call_decoder(model):
    ids, attention_mask = words()
    return [
        model(input_ids=ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
    ], []


def bert(**options):
    torch.manual_seed(0)
    return hf.BertModel(hf.BertConfig(**SIZES | options), add_pooling_layer=False)


def build(cls, config):
    torch.manual_seed(0)
    return cls(config).train()
