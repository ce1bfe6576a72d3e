"""The fix clinic: one battery examines every design and every mutant, and each one's cost is measured.

`python -m fixed.clinic` prints all results. In a notebook, call `examine(design)`, `price(design, n, size)`,
`measured()`, `table(rows)`, `chart(rows)`.
"""

from fixed.clinic.battery import Health, examine
from fixed.clinic.charts import chart
from fixed.clinic.measure import Row, measured
from fixed.clinic.prices import Price, growth, price
from fixed.clinic.speed import speed_goals, speed_table
from fixed.clinic.tables import goals, health_table, price_table, table

__all__ = [
    "Health",
    "Price",
    "Row",
    "chart",
    "examine",
    "goals",
    "growth",
    "health_table",
    "measured",
    "price",
    "price_table",
    "speed_goals",
    "speed_table",
    "table",
]
