"""Which clients there are: what is installed for each, and which suite judges with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SUITES = Path(__file__).parent / "suites"


@dataclass(frozen=True)
class Client:
    """A client that somebody else wrote.

    Attributes:
        name: The package, as people know it.
        suite: A file of `suites/`.
        requirements: What is installed, the package itself first.
    """

    name: str
    suite: str
    requirements: tuple[str, ...]

    @property
    def path(self) -> Path:
        """Where its suite is."""
        return SUITES / self.suite

    @property
    def is_node(self) -> bool:
        """Whether it comes from npm; the others come from PyPI."""
        return self.suite.endswith(".mjs")


CLIENTS = (
    Client("openai", "openai_python.py", ("openai>=3",)),
    Client("openai (node)", "openai_node.mjs", ("openai@>=6",)),
    Client("openai-agents", "openai_agents_python.py", ("openai-agents>=0.4",)),
    Client("anthropic", "anthropic_python.py", ("anthropic>=2",)),
    Client("ollama", "ollama_python.py", ("ollama>=0.6",)),
    # It imports another that it does not name.
    Client("litellm", "litellm_python.py", ("litellm>=1.80", "mcp")),
    Client("langchain-openai", "langchain_openai_python.py", ("langchain-openai>=1",)),
    Client("instructor", "instructor_python.py", ("instructor>=1.14",)),
    Client("huggingface_hub", "huggingface_hub_python.py", ("huggingface_hub>=1",)),
    # The last versions whose client speaks Llama Stack's own routes; it imports two more.
    Client(
        "llama-stack-client",
        "llama_stack_python.py",
        ("llama-stack-client>=0.2,<0.3", "fire", "requests"),
    ),
    Client("lm-eval", "lm_eval_python.py", ("lm_eval[api]>=0.4.9", "transformers>=5")),
)
