//! `twinrack vm import`: a disk image, written over a volume.
//!
//! On failure: [`ClusterError`]; what was written stays, and it can be given again.

use super::shown::Written;
use crate::cluster::ClusterError;
use ::vm::image::{Format, Image, ImageError};
use clap::ValueEnum;
use deploy::{Member, vms};
use indicatif::{ProgressBar, ProgressStyle};
use model::VolumeId;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

/// What an image's file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ImageFormat {
    /// The disk, byte for byte.
    Raw,
    /// QEMU's.
    Qcow2,
}

/// How far it is.
const PROGRESS: &str =
    "{wide_bar} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";

/// Writes an image over the start of a volume. How far it is is shown on a terminal, and nowhere else.
pub(super) async fn import(
    members: &[Member],
    path: &Path,
    format: Option<ImageFormat>,
    volume: VolumeId,
    bound: Duration,
) -> Result<Written, ClusterError> {
    let failed = |source| ClusterError::Image { path: path.to_owned(), source };
    let file = File::open(path).map_err(|source| failed(ImageError::Read { at: 0, source }))?;
    let format = format.map(|format| match format {
        ImageFormat::Raw => Format::Raw,
        ImageFormat::Qcow2 => Format::Qcow2,
    });
    let mut image = Image::open(file, format).map_err(failed)?;
    let (size, format) = (image.size_bytes(), image.format());
    let bar = ProgressBar::new(size);
    bar.set_style(ProgressStyle::with_template(PROGRESS).unwrap_or_else(|_| ProgressStyle::default_bar()));
    let read = |at, into: &mut [u8]| image.read(at, into).map_err(io::Error::other);
    let written = vms::write(members, volume, size, read, bound, |bytes| bar.set_position(bytes)).await;
    bar.finish_and_clear();
    written?;
    Ok(Written::new(volume.to_string(), format.to_string(), size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is_can_be_drawn() {
        assert!(ProgressStyle::with_template(PROGRESS).is_ok());
    }
}
