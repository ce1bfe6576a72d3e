"""Every order of events. A run shows only one order of the processes' system calls. Here, a model of the protocol goes
through all possible orders, with at most one fault, at any moment.

protocols    the designs, as programs of system calls
machine      the processes of one server, as a model: which call may come next
pool_machine the same model for a design that uses its segments again: several requests, and a pool
explorer     goes through every order, and finds the shortest one in which something is wrong
recorded     the protocol of one run, read from its record
judged       every order of a run's protocol: the third judge of an attempt
lanes        an order as lanes, as text and as SVG
covering     a set of orders that together take every step of a machine
holder       forces one order on sglang's own functions, between real processes
pool_holder  the same for a pool
forced       forces many orders
"""

from fixed.orders.explorer import Explored, explore
from fixed.orders.machine import FAULTS, Act, Machine
from fixed.orders.protocols import PROTOCOLS, Protocol, Step

__all__ = ["FAULTS", "PROTOCOLS", "Act", "Explored", "Machine", "Protocol", "Step", "explore"]
