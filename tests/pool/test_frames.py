import pytest

from pool.frames import FRAME_BYTES, AttachedParser, FrameParser

ONE = "1" * 32
TWO = "2" * 32


def frame(activation: str, seq: int, stream: str, text: str) -> bytes:
    return f"{activation} {seq} {stream} 1700000000000000 {text}\n".encode()


def test_a_frame_carries_activation_sequence_stream_time_and_text():
    (parsed,) = FrameParser().feed(frame(ONE, 7, "e", "oh dear, spaces"))
    assert (parsed.activation, parsed.seq, parsed.stream) == (ONE, 7, "e")
    assert (parsed.time_us, parsed.text) == (1700000000000000, b"oh dear, spaces")


def test_wherever_a_read_ends_the_frames_are_the_same():
    stream = frame(ONE, 0, "o", "first") + frame(TWO, 0, "E", "") + frame(ONE, 1, "O", "grüße")
    whole = FrameParser().feed(stream)
    assert len(whole) == 3
    for cut in range(len(stream) + 1):
        parser = FrameParser()
        assert parser.feed(stream[:cut]) + parser.feed(stream[cut:]) == whole
        assert parser.rejected == 0


def test_bytes_that_are_not_utf8_are_handed_on():
    (parsed,) = FrameParser().feed(b"%s 0 o 1 \xff\xfe\r\n" % ONE.encode())
    assert parsed.text == b"\xff\xfe\r"


@pytest.mark.parametrize(
    "rubbish",
    [
        b"hello\n",
        b"\n",
        b"%s 0 x 1 text\n" % ONE.encode(),
        b"%s -1 o 1 text\n" % ONE.encode(),
        b"%s 99999999999 o 1 text\n" % ONE.encode(),
        b"%s 0 o 1\n" % ONE.encode(),
        b"%s 0 o 1 text\n" % ONE.upper().replace("1", "A").encode(),
        b"\x00" * 100 + b"\n",
    ],
)
def test_rubbish_is_counted_and_hides_no_frame_after_it(rubbish):
    parser = FrameParser()
    assert [f.text for f in parser.feed(rubbish + frame(ONE, 0, "o", "still here"))] == [b"still here"]
    assert parser.rejected == 1


def test_wherever_a_skipped_read_ends_the_next_frame_is_whole():
    unwanted = b"".join(frame(ONE, seq, "o", "unwanted") for seq in range(3))
    wanted = frame(ONE, 3, "o", "wanted")
    for cut in range(1, len(unwanted + wanted)):
        parser = FrameParser()
        for begin in range(0, len(unwanted), cut):
            parser.skip(unwanted[begin : begin + cut])
        assert [each.text for each in parser.feed(wanted)] == [b"wanted"]
    parser = FrameParser()
    parser.skip(unwanted + wanted[:20])
    assert [each.text for each in parser.feed(wanted[20:])] == [b"wanted"]
    parser.skip(b"x" * 100_000)
    parser.skip(b"x" * 100_000)
    assert (parser.feed(b"\n" + wanted)[0].text, parser.rejected) == (b"wanted", 1)


def test_a_line_without_end_needs_no_memory_and_counts_once():
    parser = FrameParser()
    for _ in range(100):
        assert parser.feed(b"x" * FRAME_BYTES) == []
        assert len(parser._rest) < FRAME_BYTES
    frames = parser.feed(b"tail of it\n" + frame(ONE, 0, "o", "after"))
    assert [f.text for f in frames] == [b"after"]
    assert parser.rejected == 1


def test_a_line_that_is_too_long_in_one_read_is_rejected():
    parser = FrameParser()
    longest = frame(ONE, 0, "o", "y" * (FRAME_BYTES - len(frame(ONE, 0, "o", ""))))
    assert len(longest) == FRAME_BYTES
    assert len(parser.feed(longest)) == 1
    assert parser.feed(longest[:-1] + b"y\n") == []
    assert parser.rejected == 1


def test_wherever_a_read_ends_an_attached_stream_has_the_same_bytes():
    stream = b"\x01\0\0\0\0\0\0\x05hello\x02\0\0\0\0\0\0\x03err\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x01!"
    for cut in range(len(stream) + 1):
        parser = AttachedParser()
        said = {"stdout": b"", "stderr": b""}
        for name, data in parser.feed(stream[:cut]) + parser.feed(stream[cut:]):
            said[name] += data
        assert said == {"stdout": b"hello!", "stderr": b"err"}


def test_a_long_attached_payload_is_handed_on_as_it_comes():
    parser = AttachedParser()
    assert parser.feed(b"\x02\0\0\0" + (1 << 20).to_bytes(4, "big") + b"abc") == [("stderr", b"abc")]
    assert parser.feed(b"d" * 10) == [("stderr", b"d" * 10)]
