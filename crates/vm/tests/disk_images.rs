//! Images as `qemu-img` makes them.

#![expect(clippy::unwrap_used, reason = "a test may fail by panicking")]

use std::fs;
use std::io::Cursor;
use std::path::Path;
use std::process::Command;
use vm::image::{Image, ImageError};

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

fn open(bytes: &[u8]) -> Result<Image<Cursor<&[u8]>>, ImageError> {
    Image::open(Cursor::new(bytes), None)
}

fn all(bytes: &[u8], piece: usize) -> Result<Vec<u8>, ImageError> {
    let mut image = open(bytes)?;
    let mut disk = vec![0; usize::try_from(image.size_bytes()).unwrap()];
    for (number, piece_of) in disk.chunks_mut(piece).enumerate() {
        image.read((number * piece) as u64, piece_of)?;
    }
    Ok(disk)
}

#[test]
fn what_qemu_img_makes_is_read_as_it_was() {
    for options in [
        &[][..],
        &["-c"],
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
fn what_leads_elsewhere_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("base"), disk()).unwrap();
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", "base", "-F", "raw", "out"], folder.path());
    let data = ["create", "-q", "-f", "qcow2", "-o", "data_file=d,data_file_raw=on", "data", "1M"];
    qemu_img(&data, folder.path());
    for image in ["out", "data"] {
        let refused = open(&fs::read(folder.path().join(image)).unwrap()).map(drop);
        assert!(matches!(refused, Err(ImageError::Unsupported(_))), "{image}: {refused:?}");
    }
}
