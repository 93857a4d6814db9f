//! Lab files: what a lab is made of, apart from the cluster that runs on it.

use serde::Deserialize;
use std::path::PathBuf;

/// The lab file that is used when none is given.
pub const DEFAULT: &str = include_str!("../../labs/qemu.toml");

/// A lab that is built on the spot.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabFile {
    /// What kind of lab.
    pub kind: LabKind,
    /// What every node has.
    pub node: NodeHardware,
    /// How nodes start.
    pub boot: Boot,
    /// Which QEMU.
    pub qemu: Qemu,
    /// How nodes are reached besides the fabric.
    pub out_of_band: OutOfBand,
}

/// Kinds of labs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LabKind {
    /// Nodes are virtual machines on this host.
    Qemu,
}

/// A virtual node's hardware.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeHardware {
    /// Memory, MiB.
    pub memory_mib: u32,
    /// Data drives, besides the boot drive.
    pub data_drives: u8,
    /// Size of each data drive, MiB.
    pub data_drive_mib: u64,
    /// Size of the boot drive, MiB.
    pub boot_drive_mib: u64,
    /// Speed that the NICs report, Mb/s.
    pub nic_speed_mbps: u32,
}

/// How nodes start.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// How long a node has from power on to its agent's first answer, seconds.
    pub timeout_s: u64,
    /// Appended to the kernel's command line.
    pub kernel_arguments: String,
}

/// Which QEMU runs the nodes.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Qemu {
    /// Name or path of the program.
    pub binary: PathBuf,
}

/// How nodes are reached besides the fabric.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutOfBand {
    /// First of the loopback ports, one per node in a row; 0: any free ones.
    pub first_port: u16,
}

/// A lab file that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum LabFileError {
    /// Not TOML, an unknown key or a wrong type; the message has the place.
    #[error("{0}")]
    Syntax(#[from] toml::de::Error),
    /// A number outside what a lab may have.
    #[error("{key} = {value}: a lab has {allowed}")]
    Range {
        /// Which key.
        key: &'static str,
        /// What it says.
        value: u64,
        /// What would be right.
        allowed: &'static str,
    },
}

impl LabFile {
    /// Reads a lab file's text.
    pub fn parse(text: &str) -> Result<Self, LabFileError> {
        let file: Self = toml::from_str(text)?;
        let range = |key, value: u64, allowed, good: std::ops::RangeInclusive<u64>| {
            if good.contains(&value) { Ok(()) } else { Err(LabFileError::Range { key, value, allowed }) }
        };
        let node = &file.node;
        range("node.memory_mib", node.memory_mib.into(), "256 to 512 MiB a node", 256..=512)?;
        range("node.data_drives", node.data_drives.into(), "2 to 4 data drives a node", 2..=4)?;
        range("node.data_drive_mib", node.data_drive_mib, "64 MiB to 1 TiB a drive", 64..=1 << 20)?;
        range("node.boot_drive_mib", node.boot_drive_mib, "64 MiB to 1 TiB a drive", 64..=1 << 20)?;
        range("boot.timeout_s", file.boot.timeout_s, "1 to 600 seconds to boot", 1..=600)?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_is_good() {
        assert_eq!(LabFile::parse(DEFAULT).unwrap().node.memory_mib, 384);
    }

    #[test]
    fn ranges_are_named_with_their_key() {
        let text = DEFAULT.replace("memory_mib = 384", "memory_mib = 4096");
        assert_eq!(
            LabFile::parse(&text).unwrap_err().to_string(),
            "node.memory_mib = 4096: a lab has 256 to 512 MiB a node"
        );
    }

    #[test]
    fn unknown_keys_are_refused() {
        let text = DEFAULT.replace("[qemu]", "[qemu]\nflavour = 1");
        assert!(LabFile::parse(&text).unwrap_err().to_string().contains("flavour"));
    }
}
