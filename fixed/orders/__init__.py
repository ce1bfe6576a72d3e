"""Every order of events. A run shows one order in which the processes' system calls came; here a model of the protocol
tries all of them, with at most one fault at any moment.

protocols    the designs, as programs of system calls
machine      tokenizer, ranks, tracker and sglang's tree kill: which call may come next
pool_machine the same for a design that uses its segments again: several requests, and a pool
explorer     every order of them, what is wrong in some, and the shortest such order
recorded     a run's own protocol, read from its record
judged       every order of that, as the third judge of an attempt
lanes        an order as lanes, as text and as SVG
covering     orders that together take every step of a machine
holder       one order, forced on sglang's own functions between real processes
pool_holder  the same for a pool
forced       many of them
"""

from fixed.orders.explorer import Explored, explore
from fixed.orders.machine import FAULTS, Act, Machine
from fixed.orders.protocols import PROTOCOLS, Protocol, Step

__all__ = ["FAULTS", "PROTOCOLS", "Act", "Explored", "Machine", "Protocol", "Step", "explore"]
