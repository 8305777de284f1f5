"""The host's end of the channel, against agents that do not behave."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.errors import GuestDied, HarnessError
from pytest_kernelvm.guest.frames import FrameSplitter, encode_frame
from pytest_kernelvm.guest.protocol import PROTOCOL_VERSION, Batch
from pytest_kernelvm.process import Deadline
from pytest_kernelvm.vm.agent.channel import Channel, NoReply
from pytest_kernelvm.vm.qemu.streams import connected

ARCH = ARCHES["mipsel"]
NUMBERS = {"getpid": 4020}


def words(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in numbers)


def frame(*numbers: int) -> bytes:
    return encode_frame(words(*numbers), "little")


def hello(boot_id: int = 77, version: int = PROTOCOL_VERSION) -> bytes:
    return frame(0, 2, version, boot_id)


class Peer:
    """The guest's end: says hello, then answers each request as it is told to.

    answer: gets the id and how many requests came before, returns the bytes to be sent.
    """

    def __init__(
        self,
        tmp_path: Path,
        greeting: bytes,
        answer: Callable[[int, int], bytes],
        repeat_s: float,
    ) -> None:
        self._stack = contextlib.ExitStack()
        self.streams, self.far = self._stack.enter_context(
            connected(splitter=FrameSplitter("little"), log=tmp_path / "console.log")
        )
        self.requests: list[int] = []
        self._answer = answer
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.far.channel.write(greeting)
        self.streams.start()
        self._thread.start()
        self.channel = Channel(
            self.streams, ARCH, NUMBERS, lambda: self.streams.console_ended, repeat_s=repeat_s
        )

    def _serve(self) -> None:
        splitter = FrameSplitter("little")
        while data := self.far.channel.read():
            for payload in splitter.feed(data)[0]:
                request_id = int.from_bytes(payload[:4], "little")
                self.requests.append(request_id)
                self.far.channel.write(self._answer(request_id, len(self.requests)))

    def end(self) -> None:
        self._stack.close()
        self._thread.join(5)


Start = Callable[..., Peer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    peers = []

    def begin(
        answer: Callable[[int, int], bytes], greeting: bytes = hello(), repeat_s: float = 0.25
    ) -> Peer:
        peers.append(Peer(tmp_path, greeting, answer, repeat_s))
        return peers[-1]

    yield begin
    for peer in peers:
        peer.end()


def getpid() -> Batch:
    batch = Batch()
    batch.call("getpid")
    return batch


def pid_one(request_id: int, _nr: int) -> bytes:
    return frame(request_id, 1, 1)


def test_hello_then_replies(start: Start) -> None:
    peer = start(pid_one)
    peer.channel.wait_ready(Deadline(5))
    assert peer.channel.boot_id == 77
    for _request in range(3):
        assert peer.channel.transact(getpid(), Deadline(5)).results == (1,)
    assert peer.requests == [1, 2, 3]
    assert peer.channel.oddities == ""


def test_a_missed_hello_is_asked_for(start: Start) -> None:
    peer = start(lambda _id, _nr: hello(), greeting=b"")
    peer.channel.wait_ready(Deadline(5))
    assert peer.channel.boot_id == 77


def test_a_guest_that_boots_is_asked_only_when_it_is_silent(start: Start) -> None:
    peer = start(lambda _id, _nr: hello(), greeting=b"", repeat_s=1.0)
    before: list[int] = []

    def boot() -> None:
        for _line in range(50):
            peer.far.console.write(b"a line of a boot\n")
            time.sleep(0.05)
        before.extend(peer.requests)

    booting = threading.Thread(target=boot)
    booting.start()
    peer.channel.wait_ready(Deadline(30))
    booting.join()
    assert before == []
    assert set(peer.requests) == {0}


def test_an_agent_of_another_version(start: Start) -> None:
    peer = start(pid_one, greeting=hello(version=99))
    with pytest.raises(HarnessError, match="the agent speaks version 99"):
        peer.channel.wait_ready(Deadline(5))


@pytest.mark.parametrize("greeting", [b"", b"\x01\x84\x81", b"login: "])
def test_a_hello_that_never_comes(start: Start, greeting: bytes) -> None:
    peer = start(lambda _id, _nr: b"", greeting=greeting)
    with pytest.raises(NoReply):
        peer.channel.wait_ready(Deadline(0.3))


def test_a_reply_that_is_nonsense(start: Start) -> None:
    """A whole frame with the right id, and other contents than a reply's."""
    peer = start(lambda request_id, _nr: frame(request_id, 5, 1))
    peer.channel.wait_ready(Deadline(5))
    with pytest.raises(GuestDied, match="the agent answered nonsense"):
        peer.channel.transact(getpid(), Deadline(5))


def test_noise_between_frames_is_no_answer(start: Start) -> None:
    def noisy(request_id: int, _nr: int) -> bytes:
        return b"\xff\x04 text \x01\x80" + pid_one(request_id, 0)

    peer = start(noisy)
    peer.channel.wait_ready(Deadline(5))
    assert peer.channel.transact(getpid(), Deadline(5)).results == (1,)
    assert peer.channel.oddities == "1 damaged frames"


def test_a_reply_that_comes_twice(start: Start) -> None:
    peer = start(lambda request_id, _nr: 2 * pid_one(request_id, 0))
    peer.channel.wait_ready(Deadline(5))
    for _request in range(3):
        assert peer.channel.transact(getpid(), Deadline(5)).results == (1,)
    assert peer.channel.oddities == "2 replies that nobody had asked for"


def test_an_answer_to_another_request(start: Start) -> None:
    peer = start(lambda _id, _nr: pid_one(4711, 0))
    peer.channel.wait_ready(Deadline(5))
    with pytest.raises(NoReply):
        peer.channel.transact(getpid(), Deadline(0.15))
    assert peer.channel.oddities == "1 replies that nobody had asked for"


def test_a_reply_that_comes_late(start: Start) -> None:
    """The first request is answered when the second one comes."""

    def late(request_id: int, nr: int) -> bytes:
        return b"" if nr == 1 else pid_one(1, 0) + pid_one(request_id, 0)

    peer = start(late)
    peer.channel.wait_ready(Deadline(5))
    with pytest.raises(NoReply):
        peer.channel.transact(getpid(), Deadline(0.15))
    assert peer.channel.transact(getpid(), Deadline(5)).results == (1,)
    assert peer.channel.oddities == "1 late replies"


def test_a_lost_request_is_sent_again(start: Start) -> None:
    peer = start(lambda request_id, nr: pid_one(request_id, 0) if nr == 3 else b"")
    peer.channel.wait_ready(Deadline(5))
    assert peer.channel.transact(getpid(), Deadline(5)).results == (1,)
    assert peer.requests == [1, 1, 1]
    assert peer.channel.oddities == ""


def test_a_hello_of_another_boot(start: Start) -> None:
    peer = start(lambda _id, _nr: hello(boot_id=78))
    peer.channel.wait_ready(Deadline(5))
    with pytest.raises(NoReply):
        peer.channel.transact(getpid(), Deadline(5))
    assert peer.channel.began_anew


def test_another_agent_begins_on_the_same_channel(start: Start) -> None:
    """The first one says hello once more; the second one has to be asked."""
    peer = start(lambda request_id, nr: hello(77) if request_id or nr < 3 else hello(78))
    peer.channel.wait_ready(Deadline(5))
    assert peer.channel.hand_over(getpid(), Deadline(10)) is None
    assert peer.channel.boot_id == 78
    assert not peer.channel.began_anew
    assert peer.requests[0] == 1
    assert set(peer.requests[1:]) == {0}
    assert peer.channel.oddities == ""


def test_an_agent_that_lives_on_says_why(start: Start) -> None:
    peer = start(lambda request_id, _nr: frame(request_id, 1, 2**32 - 22))
    peer.channel.wait_ready(Deadline(5))
    reply = peer.channel.hand_over(getpid(), Deadline(5))
    assert reply is not None
    assert reply.results == (-22,)
    assert peer.channel.boot_id == 77


def test_no_other_agent_begins(start: Start) -> None:
    peer = start(lambda _id, _nr: b"")
    peer.channel.wait_ready(Deadline(5))
    with pytest.raises(NoReply):
        peer.channel.hand_over(getpid(), Deadline(0.6))


def interrupted(peer: Peer) -> None:
    peer.channel.wait_ready(Deadline(5))
    with pytest.raises(NoReply):
        peer.channel.transact(getpid(), Deadline(0.15))


def ask_aside(peer: Peer) -> tuple[int, ...]:
    return peer.channel.ask_aside(getpid(), Deadline(5), lambda: False).results


def test_a_reply_that_comes_while_something_else_is_asked_is_not_lost(start: Start) -> None:
    def answer(request_id: int, nr: int) -> bytes:
        return b"" if nr == 1 else frame(1, 1, 11) + frame(request_id, 1, 22)

    peer = start(answer)
    interrupted(peer)
    assert ask_aside(peer) == (22,)
    assert peer.channel.resume(getpid(), Deadline(5)).results == (11,)
    assert peer.channel.transact(getpid(), Deadline(5)).results == (22,)
    assert peer.requests == [1, 2, 3]


def test_a_reply_that_comes_after_something_else_was_asked(start: Start) -> None:
    answers = {2: frame(2, 1, 22), 3: frame(3, 1, 33) + frame(1, 1, 11)}
    peer = start(lambda request_id, _nr: answers.get(request_id, b""))
    interrupted(peer)
    assert [ask_aside(peer), ask_aside(peer)] == [(22,), (33,)]
    assert peer.channel.resume(getpid(), Deadline(5)).results == (11,)
    assert peer.channel.oddities == ""


def test_no_answer_about_the_log(start: Start) -> None:
    peer = start(lambda _id, _nr: b"")
    interrupted(peer)
    with pytest.raises(NoReply):
        peer.channel.ask_aside(getpid(), Deadline(0.3), lambda: False)
    with pytest.raises(NoReply):
        peer.channel.ask_aside(getpid(), Deadline(5), lambda: True)
