//! What steps say of where and how.

use serde::Deserialize;
use std::fmt;

/// One of the two rooms, by its place in the template: 1 or 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u8")]
pub struct Room(u8);

impl Room {
    /// The other of the two.
    #[must_use]
    pub const fn other(self) -> Self {
        Self(3 - self.0)
    }

    /// Its index in the template's zones.
    pub fn index(self) -> usize {
        usize::from(self.0) - 1
    }
}

impl Default for Room {
    fn default() -> Self {
        Self(1)
    }
}

impl TryFrom<u8> for Room {
    type Error = String;
    fn try_from(value: u8) -> Result<Self, String> {
        if (1..=2).contains(&value) {
            Ok(Self(value))
        } else {
            Err(format!("room {value}: there are rooms 1 and 2"))
        }
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "room {}", self.0)
    }
}

/// Where machines are: in a room, in the third place, or anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Named")]
pub enum Place {
    /// In a room.
    Room(Room),
    /// In the third place, where the witness is.
    Witness,
    /// Everywhere.
    Everywhere,
}

/// A place as it is written: a room's number, or a word.
#[derive(Deserialize)]
#[serde(untagged)]
enum Named {
    Number(u8),
    Word(String),
}

impl TryFrom<Named> for Place {
    type Error = String;
    fn try_from(named: Named) -> Result<Self, String> {
        match named {
            Named::Number(number) => Room::try_from(number).map(Self::Room),
            Named::Word(word) if word == "witness" => Ok(Self::Witness),
            Named::Word(word) if word == "all" => Ok(Self::Everywhere),
            Named::Word(word) => Err(format!("room `{word}`: there are rooms 1 and 2, `witness` and `all`")),
        }
    }
}

impl Place {
    /// The room, if it is one.
    pub fn room(self) -> Option<Room> {
        match self {
            Self::Room(room) => Some(room),
            Self::Witness | Self::Everywhere => None,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Room(room) => room.fmt(f),
            Self::Witness => f.write_str("the witness"),
            Self::Everywhere => f.write_str("everything"),
        }
    }
}

/// Which way a link or switch is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Nothing passes.
    #[default]
    Both,
    /// From the first room to the second nothing passes.
    OneToTwo,
    /// From the second room to the first nothing passes.
    TwoToOne,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Both => "both ways",
            Self::OneToTwo => "from room 1 to room 2",
            Self::TwoToOne => "from room 2 to room 1",
        })
    }
}

/// How a switch fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SwitchFailure {
    /// It is off: its neighbours see no carrier.
    #[default]
    Off,
    /// It still sends, but no frame gets in.
    Deaf,
    /// It still takes frames, but none gets out.
    Mute,
}

impl fmt::Display for SwitchFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "is off",
            Self::Deaf => "takes no frames any more",
            Self::Mute => "sends no frames any more",
        })
    }
}

/// Which way a switch's link to the spine is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SpineWay {
    /// Nothing passes.
    #[default]
    Both,
    /// What the room sends is lost.
    ToSpine,
    /// What is sent to the room is lost.
    FromSpine,
}

impl fmt::Display for SpineWay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Both => "both ways",
            Self::ToSpine => "towards the spine",
            Self::FromSpine => "from the spine",
        })
    }
}

/// How a link flaps: down and up, so many times, by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Flapping {
    /// How long it is down each time, milliseconds.
    pub down_ms: u32,
    /// How long it is up in between, milliseconds.
    pub up_ms: u32,
    /// How often it goes down.
    pub times: u32,
}

impl fmt::Display for Flapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "goes down {} times for {} ms and up for {} ms", self.times, self.down_ms, self.up_ms)
    }
}

/// Which NICs of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nics {
    /// All of them.
    All,
    /// Those that carry storage.
    Storage,
}

/// A node of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeAt {
    /// Where.
    pub room: Room,
    /// Its position there, from 1.
    pub position: u8,
}

/// Who loses power, freezes or comes back: one node, a whole room, the witness, or all at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Whom {
    /// Where.
    pub room: Place,
    /// The node's position there, from 1; none: all of them.
    pub position: Option<u8>,
}

impl Whom {
    /// Whether all of the others are among these.
    pub(super) fn includes(self, others: Self) -> bool {
        let whole = self.position.is_none() || self.position == others.position;
        self.room == Place::Everywhere || self.room == others.room && whole
    }
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some(position) => write!(f, "node {position} of {}", self.room),
            None => write!(f, "{}", self.room),
        }
    }
}

/// What is wired or set up wrongly: at a node's NIC of a storage network, or at the switch or room-to-room link of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wrong {
    /// The NIC's cable leads to another port of its switch.
    OtherPort,
    /// The NIC's port does not carry the storage network's VLAN.
    NoVlan,
    /// The NIC's port takes small packets only, and says so.
    SmallPort,
    /// The same, but it says that it takes large ones.
    SmallPortUnsaid,
    /// The switch takes small packets only, and says so.
    SmallSwitch,
    /// The same, but it says that it takes large ones.
    SmallSwitchUnsaid,
    /// Round trips through the NIC's cable take 3 ms longer.
    SlowCable,
    /// Round trips between the rooms take 3 ms longer.
    SlowRoomLink,
    /// The two storage NICs of the node have each other's cables.
    SwappedStorageNics,
    /// What the NIC sends is lost in its cable.
    SendsNothing,
    /// What is sent to the NIC is lost in its cable.
    ReceivesNothing,
}

/// One of a node's data drives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum WhichDrive {
    /// By its place on the bus among them, from 1.
    Number(u8),
    /// By what it holds.
    Holds(Held),
}

/// What a drive holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Held {
    /// The node's leg of the volume.
    Leg,
}

impl Default for WhichDrive {
    fn default() -> Self {
        Self::Number(1)
    }
}

/// A data drive of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriveAt {
    /// The node's room.
    pub room: Room,
    /// Its position there, from 1.
    pub position: u8,
    /// Which of its drives.
    #[serde(default)]
    pub which: WhichDrive,
}

impl fmt::Display for DriveAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { room, position, which } = self;
        match which {
            WhichDrive::Number(number) => write!(f, "data drive {number} of node {position} of {room}"),
            WhichDrive::Holds(Held::Leg) => {
                write!(f, "the drive with the leg on node {position} of {room}")
            }
        }
    }
}

/// What is wrong with a ledger's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Damage {
    /// A byte in each of its blocks is another.
    Changed,
    /// Its second half is gone.
    CutOff,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Changed => "has a changed byte in each block",
            Self::CutOff => "is cut off in the middle",
        })
    }
}

/// What is wrong with a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BadPlan {
    /// Management is on a VLAN that no switch carries.
    WrongManagementVlan,
    /// All storage is.
    WrongStorageVlans,
    /// The kernel can't make it.
    Unmakeable,
}

impl fmt::Display for BadPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WrongManagementVlan => "a plan with a wrong management VLAN",
            Self::WrongStorageVlans => "a plan with wrong storage VLANs",
            Self::Unmakeable => "a plan that its kernel can't make",
        })
    }
}

/// What becomes of a node while a plan is applied or waits for its confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Death {
    /// Its agent is killed.
    AgentKilled,
    /// Its agent is stopped, and stays so.
    AgentFrozen,
    /// Its power goes and comes back.
    NodePowerCycled,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AgentKilled => "the agent is killed",
            Self::AgentFrozen => "the agent is frozen",
            Self::NodePowerCycled => "the power is cycled",
        })
    }
}
