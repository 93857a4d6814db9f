//! What a step has where it is not said.

pub(super) fn one() -> u8 {
    1
}

pub(super) fn yes() -> bool {
    true
}

pub(super) fn eight() -> u8 {
    8
}

pub(super) fn fifty() -> u8 {
    50
}

pub(super) fn one_mib() -> u16 {
    1
}

pub(super) fn twenty() -> u16 {
    20
}
