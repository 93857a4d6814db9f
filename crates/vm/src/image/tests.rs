//! Images made by hand, byte for byte, and damaged ones.

use super::*;
use flate2::{Compress, Compression, FlushCompress};
use proptest::prelude::*;
use std::io::Cursor;

const CLUSTER: usize = 512;

/// A cluster in which each place is another.
fn cluster(first: u8) -> [u8; CLUSTER] {
    std::array::from_fn(|at| first.wrapping_add((at % 251) as u8))
}

/// A version 3 image of 512-byte clusters and a disk of eight of them less 100 bytes: header, first table, second table, then clusters from 0x600 on.
/// On the disk: cluster 0 of 'a', 2 of zeros though there is one, 3 packed ('p'), the last of 'z'; nothing of the others.
fn qcow2(version: u32) -> Vec<u8> {
    let mut file = vec![0; 0x600];
    let put = |file: &mut Vec<u8>, at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(&mut file, 0, b"QFI\xfb");
    put(&mut file, 4, &version.to_be_bytes());
    put(&mut file, 20, &9_u32.to_be_bytes());
    put(&mut file, 24, &(8 * CLUSTER as u64 - 100).to_be_bytes());
    put(&mut file, 36, &1_u32.to_be_bytes());
    put(&mut file, 40, &0x200_u64.to_be_bytes());
    put(&mut file, 100, &104_u32.to_be_bytes());
    put(&mut file, 0x200, &(0x400_u64 | 1 << 63).to_be_bytes());
    put(&mut file, 0x400, &(0x600_u64 | 1 << 63).to_be_bytes());
    put(&mut file, 0x410, &(0x600_u64 | 1).to_be_bytes());
    put(&mut file, 0x438, &(0xa00_u64 | 1 << 63).to_be_bytes());
    file.extend(cluster(b'a'));
    let mut packed = Vec::with_capacity(CLUSTER);
    let mut deflate = Compress::new(Compression::best(), false);
    deflate.compress_vec(&cluster(b'p'), &mut packed, FlushCompress::Finish).unwrap();
    // From the middle of a sector on, less than one more.
    put(&mut file, 0x418, &(1_u64 << 62 | 0x820).to_be_bytes());
    file.resize(0xa00, 0);
    put(&mut file, 0x820, &packed);
    file.extend([b'z'; CLUSTER - 100]);
    file
}

fn open(file: &[u8]) -> Result<Image<Cursor<&[u8]>>, ImageError> {
    Image::open(Cursor::new(file), None)
}

fn all(file: &[u8]) -> Result<Vec<u8>, ImageError> {
    let mut image = open(file)?;
    let mut bytes = vec![1; usize::try_from(image.size_bytes()).unwrap().min(1 << 16)];
    image.read(0, &mut bytes)?;
    Ok(bytes)
}

fn with(at: usize, bytes: &[u8]) -> Result<Vec<u8>, ImageError> {
    let mut file = qcow2(3);
    file[at..at + bytes.len()].copy_from_slice(bytes);
    all(&file)
}

#[test]
fn a_raw_one_is_its_bytes() {
    let mut image = open(b"0123456789").unwrap();
    assert_eq!((image.format(), image.size_bytes()), (Format::Raw, 10));
    let mut part = [0; 3];
    image.read(7, &mut part).unwrap();
    assert_eq!(part, *b"789");
    assert!(matches!(image.read(8, &mut part), Err(ImageError::BehindEnd { size_bytes: 10, end: 11 })));
    assert!(matches!(open(b""), Err(ImageError::Empty)));
    assert!(matches!(Image::open(Cursor::new(b"0123"), Some(Format::Qcow2)), Err(ImageError::NotQcow2)));
    let file = qcow2(3);
    let image = Image::open(Cursor::new(&file[..]), Some(Format::Raw)).unwrap();
    assert_eq!(image.size_bytes(), file.len() as u64, "named raw, it is raw");
}

#[test]
fn clusters_are_where_the_tables_say() {
    let none = [0; CLUSTER];
    let disk = |third| {
        let clusters = [cluster(b'a'), none, third, cluster(b'p'), none, none, none, [b'z'; CLUSTER]];
        clusters.concat()[..8 * CLUSTER - 100].to_vec()
    };
    assert!(all(&qcow2(3)).unwrap() == disk(none));
    assert!(all(&qcow2(2)).unwrap() == disk(cluster(b'a')), "version 2 knows no zeros");
    let (file, whole) = (qcow2(3), disk(none));
    let mut image = open(&file).unwrap();
    assert_eq!(image.format(), Format::Qcow2);
    for (at, length) in [(500, 20), (1530, 600), (1540, 3), (3990, 6), (0, 0)] {
        let mut part = vec![1; length];
        image.read(at as u64, &mut part).unwrap();
        assert!(part == whole[at..at + length], "{length} at {at}");
    }
}

#[test]
fn what_is_not_understood_is_refused() {
    let refused = |at, bytes: &[u8]| match with(at, bytes) {
        Err(ImageError::Unsupported(what)) => what,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(4, &4_u32.to_be_bytes()), "this version of qcow2");
    assert_eq!(refused(8, &600_u64.to_be_bytes()), "an image with a backing file");
    assert_eq!(refused(32, &1_u32.to_be_bytes()), "an encrypted image");
    assert_eq!(refused(24, &(1_u64 << 60).to_be_bytes()), "a disk of this size");
    for (bit, what) in [
        (1, "marked as corrupt"),
        (2, "data in another file"),
        (3, "anything but deflate"),
        (4, "subclusters"),
        (40, "unknown features"),
    ] {
        assert!(refused(72, &(1_u64 << bit).to_be_bytes()).contains(what), "{what}");
    }
    assert!(with(72, &1_u64.to_be_bytes()).is_ok(), "that it was not closed does not matter");
}

#[test]
fn what_is_damaged_is_an_error_and_never_zeros() {
    for (at, bytes) in [
        (20, 8_u32.to_be_bytes().to_vec()),
        (20, 22_u32.to_be_bytes().to_vec()),
        (36, 0_u32.to_be_bytes().to_vec()),
        (40, 0xffff_0000_u64.to_be_bytes().to_vec()),
        (0x200, 0x10_000_u64.to_be_bytes().to_vec()),
        (0x400, 0x10_000_u64.to_be_bytes().to_vec()),
        (0x418, (1_u64 << 62 | 0x10_000).to_be_bytes().to_vec()),
        (0x820, vec![0xff; 8]),
    ] {
        let damaged = with(at, &bytes);
        assert!(matches!(damaged, Err(ImageError::Damaged(_))), "{at:#x}: {damaged:?}");
    }
    let file = qcow2(3);
    for length in [5, 71, 103, 0x1ff, 0x5ff, 0x700, 0x9ff, file.len() - 1] {
        let cut = all(&file[..length]);
        assert!(matches!(cut, Err(ImageError::Damaged(_))), "{length}: {cut:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A header that is believed now and then, and anything behind it.
    #[test]
    fn no_bytes_make_it_panic(
        cluster_bits in prop_oneof![9 => 9..22_u32, 1 => any::<u32>()],
        (size, size_bits, l1_size) in (any::<u64>(), 0..64_u32, any::<u32>()),
        l1 in prop_oneof![0..2000_u64, any::<u64>()],
        bytes in prop::collection::vec(any::<u8>(), 64..2048),
        version in 2..4_u32,
    ) {
        let mut file = vec![0; 104];
        file[..4].copy_from_slice(b"QFI\xfb");
        file[4..8].copy_from_slice(&version.to_be_bytes());
        file[20..24].copy_from_slice(&cluster_bits.to_be_bytes());
        file[24..32].copy_from_slice(&(size >> size_bits).to_be_bytes());
        file[36..40].copy_from_slice(&l1_size.to_be_bytes());
        file[40..48].copy_from_slice(&l1.to_be_bytes());
        file.extend(bytes);
        let _ = all(&file);
    }

    #[test]
    fn no_change_of_an_image_makes_it_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        length in any::<prop::sample::Index>(),
    ) {
        let mut file = qcow2(3);
        for (at, byte) in changes {
            let at = at.index(file.len());
            file[at] = byte;
        }
        let _ = all(&file);
        file.truncate(length.index(file.len()));
        let _ = all(&file);
    }
}
