//! The four shapes of a cluster.

use crate::InvalidValue;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Nodes per zone, twice: `1+1` to `4+4`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Shape(u8);

/// How many copies a volume has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mirror {
    /// One leg per rack.
    TwoWay,
    /// Two legs per rack, on different nodes.
    FourWay,
}

impl Mirror {
    /// How many legs that is.
    pub fn legs(self) -> usize {
        match self {
            Self::TwoWay => 2,
            Self::FourWay => 4,
        }
    }
}

impl Shape {
    /// All shapes, smallest first.
    pub const ALL: [Self; 4] = [Self(1), Self(2), Self(3), Self(4)];

    /// The shape with this many nodes per zone, 1 to 4.
    pub fn with_nodes_per_zone(nodes_per_zone: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|shape| shape.nodes_per_zone() == nodes_per_zone)
    }

    /// Nodes in each of the two zones.
    pub fn nodes_per_zone(self) -> usize {
        usize::from(self.0)
    }

    /// Nodes in both zones; the witness is none of them.
    pub fn nodes(self) -> usize {
        2 * self.nodes_per_zone()
    }

    /// The mirror that Express deployment uses.
    pub fn mirror(self) -> Mirror {
        if self.0 == 1 { Mirror::TwoWay } else { Mirror::FourWay }
    }

    /// Workload volumes that Express deployment makes: one per node.
    pub fn workload_volumes(self) -> usize {
        self.nodes()
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{0}+{0}", self.0))
    }
}

impl FromStr for Shape {
    type Err = InvalidValue;

    fn from_str(value: &str) -> Result<Self, InvalidValue> {
        Self::ALL.into_iter().find(|shape| shape.to_string() == value).ok_or_else(|| InvalidValue {
            what: "shape",
            value: value.to_owned(),
            expected: "one of 1+1, 2+2, 3+3, 4+4",
        })
    }
}

impl TryFrom<String> for Shape {
    type Error = InvalidValue;
    fn try_from(value: String) -> Result<Self, InvalidValue> {
        value.parse()
    }
}

impl From<Shape> for String {
    fn from(shape: Shape) -> Self {
        shape.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_the_four_of_the_specification() {
        let shapes: Vec<_> = Shape::ALL
            .into_iter()
            .map(|s| (s.to_string(), s.nodes(), s.mirror(), s.workload_volumes()))
            .collect();
        assert_eq!(
            shapes,
            [
                ("1+1".to_owned(), 2, Mirror::TwoWay, 2),
                ("2+2".to_owned(), 4, Mirror::FourWay, 4),
                ("3+3".to_owned(), 6, Mirror::FourWay, 6),
                ("4+4".to_owned(), 8, Mirror::FourWay, 8),
            ]
        );
        for bad in ["", "1+2", "5+5", "0+0", "2", "2 + 2"] {
            assert!(bad.parse::<Shape>().is_err(), "{bad}");
        }
    }
}
