//! Images as `qemu-img` makes them, and as somebody might who means no good.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use proptest::prelude::*;
use std::fs;
use std::path::Path;
use std::process::Command;
use vm::disk_image::{DISK_MAX, Image, ImageError};

const MIB: usize = 1 << 20;

/// A disk with something in it: holes, a piece that begins and ends within clusters, a last cluster that is not whole.
fn disk() -> Vec<u8> {
    let mut disk = vec![0; 9 * MIB + 512];
    for (at, byte) in disk.iter_mut().enumerate().skip(MIB + 700).take(3 * MIB) {
        *byte = (at % 251) as u8;
    }
    let end = disk.len();
    disk[end - 5..].copy_from_slice(b"end!\n");
    disk
}

fn qemu_img(arguments: &[&str], folder: &Path) {
    let done = Command::new("qemu-img").args(arguments).current_dir(folder).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// The disk as qcow2, made with these options.
fn made(options: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("raw"), disk()).unwrap();
    let arguments = [&["convert", "-f", "raw", "-O", "qcow2"], options, &["raw", "out"]].concat();
    qemu_img(&arguments, folder.path());
    fs::read(folder.path().join("out")).unwrap()
}

fn open(bytes: &[u8]) -> Result<Image<&[u8]>, ImageError> {
    Image::open(bytes, bytes.len() as u64)
}

fn all(bytes: &[u8], piece: usize) -> Result<Vec<u8>, ImageError> {
    let mut image = open(bytes)?;
    let mut disk = vec![0; usize::try_from(image.disk_bytes()).unwrap()];
    for (number, piece_of) in disk.chunks_mut(piece).enumerate() {
        image.read((number * piece) as u64, piece_of)?;
    }
    Ok(disk)
}

#[test]
fn what_qemu_img_makes_is_read_as_it_was() {
    for options in [
        &[][..],
        &["-o", "compat=0.10"],
        &["-o", "cluster_size=512"],
        &["-o", "cluster_size=2M"],
        &["-o", "preallocation=metadata"],
        &["-o", "lazy_refcounts=on"],
    ] {
        let image = made(options);
        assert!(all(&image, 300_000).unwrap() == disk(), "{options:?}");
    }
    let raw = disk();
    assert!(all(&raw, 300_000).unwrap() == raw);
}

#[test]
fn holes_are_told() {
    let bytes = made(&[]);
    let (mut image, mut piece) = (open(&bytes).unwrap(), vec![1; 65536]);
    assert!(!image.read(6 << 20, &mut piece).unwrap());
    assert!(piece.iter().all(|byte| *byte == 0));
    assert!(image.read(2 << 20, &mut piece).unwrap());
    let end = image.disk_bytes();
    assert!(!image.read(end, &mut piece).unwrap());
}

#[test]
fn what_leads_elsewhere_or_can_t_be_read_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("base"), disk()).unwrap();
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "out"], folder.path());
    let refused = |image: &[u8]| all(image, MIB).unwrap_err().to_string();
    assert!(
        refused(&fs::read(folder.path().join("out")).unwrap()).starts_with("the image has a backing file")
    );
    assert!(refused(&made(&["-c"])).starts_with("the image has compressed clusters"));
    qemu_img(
        &["create", "-q", "-f", "qcow2", "-o", "data_file=d,data_file_raw=on", "data", "1M"],
        folder.path(),
    );
    let external = fs::read(folder.path().join("data")).unwrap();
    assert!(refused(&external).starts_with("the image keeps its data in another file"));
    for (at, value, why) in [
        (7, 9, "is of a version that is not known"),
        (35, 1, "is encrypted"),
        (79, 1, "was not closed cleanly"),
        (79, 2, "is marked corrupt"),
        (79, 16, "has features that are not known"),
    ] {
        let mut image = made(&[]);
        image[at] = value;
        assert!(refused(&image).starts_with(&format!("the image {why}")), "{why}");
    }
    // Tables that name no cluster of the file.
    for place in [0x200u64, 1 << 40] {
        let mut image = made(&[]);
        let tables = u64::from_be_bytes(image[40..48].try_into().unwrap()) as usize;
        image[tables..tables + 8].copy_from_slice(&(1 << 63 | place).to_be_bytes());
        assert!(refused(&image).starts_with("the image is damaged: an entry"), "{place}");
    }
    let mut image = made(&[]);
    image[24] = 0x7f;
    assert!(matches!(open(&image), Err(ImageError::TooLarge { bytes }) if bytes > DISK_MAX));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever is in the file, reading it ends, without a panic and without much memory.
    #[test]
    fn any_header_and_tables_can_be_read(
        wrong in prop::collection::vec((0usize..104, any::<u8>()), 0..6),
        entries in prop::collection::vec((0usize..4096, any::<u8>()), 0..40),
        cut in 0usize..70_000, reads in prop::collection::vec((any::<u32>(), 1usize..70_000), 1..4),
    ) {
        let mut image = SMALL.with(Clone::clone);
        for (at, value) in wrong {
            image[at] = value;
        }
        let len = image.len();
        for (at, value) in entries {
            // The tables are where this image has them.
            image[(196_608 + at * 33) % len] = value;
        }
        image.truncate(len - cut.min(len));
        if let Ok(mut image) = open(&image) {
            for (at, bytes) in reads {
                let mut buffer = vec![0; bytes];
                let _ = image.read(at.into(), &mut buffer);
            }
        }
    }
}

thread_local! {
    static SMALL: Vec<u8> = made(&[]);
}
