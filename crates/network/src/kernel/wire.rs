//! What goes over the route netlink socket: messages that the netlink library knows, and bytes for the rest.
//!
//! Why: the library knows nothing of data centre bridging, and drops a whole message of traffic control when one statistic in
//! it is new to it. Both are left as bytes here, and read tolerantly ([`super::tc`], [`super::dcb`]).

use rtnetlink::packet_core::{
    DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use rtnetlink::packet_route::RouteNetlinkMessage;

/// `RTM_NEWQDISC` and the like (`uapi/linux/rtnetlink.h`).
pub(super) const NEW_QUEUE: u16 = 36;
pub(super) const DELETE_QUEUE: u16 = 37;
pub(super) const GET_QUEUE: u16 = 38;
pub(super) const NEW_FILTER: u16 = 44;
pub(super) const DELETE_FILTER: u16 = 45;
pub(super) const GET_FILTER: u16 = 46;
pub(super) const GET_DCB: u16 = 78;
pub(super) const SET_DCB: u16 = 79;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    Route(RouteNetlinkMessage),
    Raw(Raw),
}

/// One that is left as bytes: what comes after netlink's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Raw {
    /// `RTM_*`.
    pub(super) kind: u16,
    pub(super) bytes: Vec<u8>,
}

impl From<RouteNetlinkMessage> for Message {
    fn from(message: RouteNetlinkMessage) -> Self {
        Self::Route(message)
    }
}

impl From<Raw> for Message {
    fn from(message: Raw) -> Self {
        Self::Raw(message)
    }
}

impl From<Message> for NetlinkPayload<Message> {
    fn from(message: Message) -> Self {
        Self::InnerMessage(message)
    }
}

/// A request with these flags.
pub(super) fn request(message: impl Into<Message>, flags: u16) -> NetlinkMessage<Message> {
    let mut message = NetlinkMessage::from(message.into());
    message.header.flags = flags;
    message
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        match self {
            Self::Route(message) => message.message_type(),
            Self::Raw(raw) => raw.kind,
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::Route(message) => NetlinkSerializable::buffer_len(message),
            Self::Raw(raw) => raw.bytes.len(),
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        match self {
            Self::Route(message) => message.serialize(buffer),
            Self::Raw(raw) => buffer.copy_from_slice(&raw.bytes),
        }
    }
}

impl NetlinkDeserializable for Message {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        match header.message_type {
            kind @ (NEW_QUEUE..=GET_QUEUE | NEW_FILTER..=GET_FILTER | GET_DCB | SET_DCB) => {
                Ok(Self::Raw(Raw { kind, bytes: payload.to_vec() }))
            }
            _ => RouteNetlinkMessage::deserialize(header, payload).map(Self::Route),
        }
    }
}
