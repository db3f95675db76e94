"""Messages between the daemon and its writer's process."""

from invoker.record.entries import LogsEntry
from invoker.record.talk import Aside, End, Unpacker, Upto, decode_to_writer, pack


def test_messages_come_out_whole_however_the_reads_fall():
    sent = [Upto(7), Aside(LogsEntry("a", "g", 1, ["line"])), End()]
    stream = b"".join(map(pack, sent))
    for size in (1, 2, 5, len(stream)):
        unpacker = Unpacker()
        parts = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert [decode_to_writer(body) for part in parts for body in unpacker.feed(part)] == sent
