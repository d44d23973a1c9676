"""Files beneath a running program that somebody edited: its engine, its template, its daemon."""

from __future__ import annotations

import pytest


def test_F80_a_binary_that_lost_a_flag_is_refused_before_anything_stops(declared, port):
    import llama_server

    program = llama_server.install(declared.home)
    config = declared.home / ".config/lmctl/machine.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'[engines."llama.cpp"]\nbinary = "{program}"\n')
    text = '[profiles.hello]\npath = "hello.gguf"\nport = {}\nctx = {}\n'
    declared.declare(text.format(number := port(), 1024))
    declared.run("apply")
    pid = declared.profiles()["hello"]["pid"]
    program.write_text(program.read_text().replace("--no-kv-unified", "--no-other"))
    declared.declare(text.format(number, 2048))
    ran = declared.run("apply", code=9)
    assert "error[E-ENGINE]" in ran.err and "does not know --no-kv-unified" in ran.err
    assert declared.profiles()["hello"]["pid"] == pid


def test_an_edited_template_restarts_its_program_and_a_lost_one_is_told(declared, port):
    template = declared.folder / "chat.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    text = f'[profiles.hello]\npath = "hello.gguf"\nport = {port()}\nchat_template = "chat.jinja"\n'
    declared.declare(text)
    declared.run("apply")
    assert declared.run("plan", "--json").data["changes"] == []
    template.write_text("{% for m in messages %}{{ m.content }} {% endfor %}")
    (change,) = declared.run("plan", "--json").data["changes"]
    assert (change["verb"], change["cause"][0]["field"]) == ("restart", "sha256 of chat_template")
    template.unlink()
    (change,) = declared.run("plan", "--json").data["changes"]
    assert (change["verb"], change["cause"][0]["field"]) == ("update", "E-FILE")
    pid = declared.profiles()["hello"]["pid"]
    assert "error[E-FILE]" in declared.run("apply", code=65).err
    assert declared.profiles()["hello"]["pid"] == pid


@pytest.mark.parametrize(("what", "after"), [("launch", b"#!/bin/sh\n"), ("supervisord.conf", b"[supervisord]\n")])
def test_a_file_of_the_daemon_that_was_edited_is_written_again_and_nothing_restarts(declared, port, what, after):
    declared.declare(f'[profiles.hello]\npath = "hello.gguf"\nport = {port()}\n')
    declared.run("apply")
    pid = declared.profiles()["hello"]["pid"]
    file = declared.state() / what
    before = file.read_bytes()
    file.write_bytes(before.replace(after, after + b"# mine\n"))
    (change,) = declared.run("plan", "--json").data["changes"]
    assert (change["verb"], change["address"]) == ("update", "supervisord:files")
    declared.run("apply")
    assert file.read_bytes() == before
    assert declared.profiles()["hello"]["pid"] == pid
    assert "Nothing to do" in declared.run("plan").out
