"""With n > 1 under prefill/decode disaggregation, every request that is sent has a bootstrap room of its own.

A room is used once: in it, the prefill server hands a request's cache over to the decode server.
`_handle_batch_request` sends one tokenized request n + 1 times. Both servers do that, each on its own, so they have to
come to the same rooms.
"""

import asyncio
import unittest
from types import SimpleNamespace

from test_parallel_sampling_shm_ownership import SAMPLES, Manager, answers, as_on_a_server, requests_for

ROOM = 7


class TestParallelSamplingBootstrapRoom(unittest.TestCase):
    def setUp(self):
        as_on_a_server(self)

    def rooms(self, *rooms):
        """The rooms that are sent, in order, for a prompt a room."""
        sent = []
        requests = requests_for(*[[]] * len(rooms))
        for request, room in zip(requests, rooms, strict=True):
            request.mm_inputs, request.bootstrap_room = None, room
        socket = SimpleNamespace(send_pyobj=lambda request: sent.append(request.bootstrap_room))
        asyncio.run(answers(Manager(requests, socket, lambda rid: rid), requests))
        self.assertEqual(len(sent), len(rooms) * (1 + SAMPLES))
        self.assertEqual([request.bootstrap_room for request in requests], list(rooms), "the source is changed")
        return sent

    def test_each_send_has_a_room_of_its_own(self):
        rooms = self.rooms(ROOM, ROOM + 1)  # a router may draw neighbours
        self.assertEqual(len(set(rooms)), len(rooms), "two sends have the same room")
        self.assertTrue(all(0 <= room < 2**63 for room in rooms), "a room is an int64")

    def test_both_servers_draw_the_same_rooms(self):
        self.assertEqual(self.rooms(ROOM), self.rooms(ROOM), "the prefill and the decode server do not meet")


if __name__ == "__main__":
    unittest.main()
