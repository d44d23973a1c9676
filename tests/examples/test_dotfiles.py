"""examples/dotfiles: a declaration that every folder of this user finds, linked into ~/.config by stow."""

from __future__ import annotations

from e2e_tools import ask
from weights.hello import hello


def test_a_linked_declaration_is_found_from_everywhere(machine, example, hub):
    hub.add("Qwen/Qwen3-0.6B-GGUF", {"Qwen3-0.6B-Q8_0.gguf": hello("From my dotfiles.")})
    hub.add("Qwen/Qwen3-8B-GGUF", {"Qwen3-8B-Q4_K_M.gguf": hello("From work.")})
    dotfiles = machine.home / "dotfiles"
    ports = example("dotfiles", dotfiles)
    kept = dotfiles / "lmctl/.config/lmctl"
    config = machine.home / ".config/lmctl"
    config.mkdir(parents=True)
    (config / "localmodels.toml").symlink_to(kept / "localmodels.toml")  # as `stow --no-folding` does
    elsewhere = machine.home / "some/project"
    elsewhere.mkdir(parents=True)
    machine.run("lock", cwd=elsewhere)
    assert (kept / "localmodels.lock").is_file(), "the lock lies beside the real file, to be committed"
    assert not (config / "localmodels.lock").exists()
    machine.run("apply", cwd=elsewhere)
    assert ask(ports["small"], "hi") == "From my dotfiles."
    assert "Nothing to do" in machine.run("plan", cwd=machine.home).out
    (config / "machine.toml").write_text('[memory]\nreserve = "1 GiB"\n')
    assert not (kept / "machine.toml").exists()
    machine.run("validate", cwd=elsewhere)
