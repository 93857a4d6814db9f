//! What something that takes more than one commit is done to, and how that is written.

use model::{DriveId, NodeId, VolumeId};
use serde::{Deserialize, Serialize};

/// What an operation is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", into = "String", try_from = "String")]
pub enum Subject {
    /// The whole cluster.
    Cluster,
    /// A node.
    Node(NodeId),
    /// A drive.
    Drive(DriveId),
    /// A volume.
    Volume(VolumeId),
}

impl From<Subject> for String {
    fn from(subject: Subject) -> Self {
        match subject {
            Subject::Cluster => "cluster".to_owned(),
            Subject::Node(id) => id.to_string(),
            Subject::Drive(id) => id.to_string(),
            Subject::Volume(id) => id.to_string(),
        }
    }
}

impl TryFrom<String> for Subject {
    type Error = model::InvalidValue;

    fn try_from(value: String) -> Result<Self, Self::Error> {
        let number = |prefix| value.strip_prefix(prefix).and_then(|digits: &str| digits.parse().ok());
        let subject = (value == "cluster").then_some(Self::Cluster);
        let subject = subject.or_else(|| number("node-").map(|id| Self::Node(NodeId(id))));
        let subject = subject.or_else(|| number("drive-").map(|id| Self::Drive(DriveId(id))));
        let subject = subject.or_else(|| number("volume-").map(|id| Self::Volume(VolumeId(id))));
        subject.ok_or_else(|| model::InvalidValue {
            what: "subject of an operation",
            value: value.clone(),
            expected: "`cluster`, or `node-`, `drive-` or `volume-` and a number",
        })
    }
}
