"""The families of transformers and the model class of each."""

import importlib
import inspect

import transformers
from transformers import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES


def all_families():
    """The names of all families, such as "bert", in alphabetical order."""
    return sorted(CONFIG_MAPPING_NAMES)


def model_classes(family):
    """The classes to try, the best first: the base model, then any class of the configuration."""
    config = CONFIG_MAPPING[family]
    package = config.__module__.rpartition(".")[0]
    names = MODEL_MAPPING_NAMES.get(family, ())
    names = [names] if isinstance(names, str) else list(names)
    try:
        modeling = importlib.import_module(config.__module__.replace("configuration_", "modeling_"))
    except ModuleNotFoundError as error:
        if not error.name.startswith("transformers."):
            raise
        # The family uses models of another one.
        return [getattr(transformers, name) for name in names]
    found = [getattr(modeling, name) for name in names if hasattr(modeling, name)]
    others = [
        cls
        for cls in vars(modeling).values()
        if inspect.isclass(cls)
        and issubclass(cls, PreTrainedModel)
        and cls.__module__.startswith(package)
        and cls.config_class is config
        and not cls.__name__.endswith("PreTrainedModel")
        and cls not in found
    ]
    return found + others
