//! A volatile write cache as data. Pure.
//!
//! Purpose: says what of what was written goes to the medium, and when: [`Extent`]s, to be written in the order given.
//!
//! Invariants, which `cache_tests.rs` holds against a model:
//! - What a read sees, the medium and [`Cache::overlay`] over it, is the newest of everything written.
//! - After a flush the medium has that alone, and nothing that is older is ever written again.
//! - After [`Cache::lose_power`] each sector of the medium has what was flushed last, or something written later. Any such
//!   choice can come: all, nothing, single sectors of one write, and of two writes to a sector the first alone.
//! - At most so many pages are held: the oldest goes to the medium when there is no room.

use fastrand::Rng;
use std::collections::BTreeMap;

/// What a drive writes wholly or not at all, bytes: the logical block that QEMU's nvme device has.
pub const SECTOR_BYTES: usize = 512;
/// What is held together, bytes.
pub const PAGE_BYTES: usize = 4096;
const SECTORS: usize = PAGE_BYTES / SECTOR_BYTES;
/// All sectors of a page.
const ALL: u8 = u8::MAX;
/// Of so many pages that are written again before they were flushed, one was on its way to the medium just then.
const DESTAGED_ONE_OF: u8 = 8;
/// At a power loss of so many sectors a number survive that is drawn each time, and is lower: of many, some are always lost.
const SURVIVORS_OF: u8 = 8;

/// Something to be written to the medium.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// From the drive's beginning, bytes.
    pub offset_bytes: u64,
    /// What.
    pub content: Content,
}

/// What is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// These bytes.
    Data(Vec<u8>),
    /// So many zeros, which take no room on a medium that can do without them.
    Zeros(u64),
}

/// What a power loss did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    /// What reached the medium after all.
    pub survived: Vec<Extent>,
    /// How many sectors were not flushed.
    pub unflushed_sectors: u64,
    /// How many of them are lost.
    pub lost_sectors: u64,
}

#[derive(Debug)]
struct Page {
    bytes: Box<[u8; PAGE_BYTES]>,
    /// A bit for each sector that the medium may not have.
    unflushed: u8,
    age: u64,
}

/// A drive's write cache.
#[derive(Debug)]
pub struct Cache {
    /// By number: the drive's first page is 0.
    pages: BTreeMap<u64, Page>,
    /// The pages' numbers by age; what was first written longest ago comes first.
    ages: BTreeMap<u64, u64>,
    next_age: u64,
    pages_max: usize,
    rng: Rng,
}

impl Cache {
    /// An empty cache that holds at most so many pages, and what its choices are drawn from.
    pub fn new(pages_max: usize, seed: u64) -> Self {
        let rng = Rng::with_seed(seed);
        Self { pages: BTreeMap::new(), ages: BTreeMap::new(), next_age: 0, pages_max: pages_max.max(1), rng }
    }

    /// How much it holds that is not flushed, bytes, in whole pages.
    pub fn held_bytes(&self) -> u64 {
        (self.pages.len() * PAGE_BYTES) as u64
    }

    /// Takes a write; offset and length are whole sectors.
    pub fn write(&mut self, offset_bytes: u64, data: &[u8]) -> Vec<Extent> {
        let mut out = Extents::default();
        let mut rest = data;
        for part in parts(offset_bytes, data.len() as u64) {
            let (bytes, behind) = rest.split_at(part.len);
            self.put(&part, Some(bytes), &mut out);
            rest = behind;
        }
        out.0
    }

    /// Takes zeros, or the notice that nobody needs what is there, which reads as zeros.
    pub fn zero(&mut self, offset_bytes: u64, len_bytes: u64) -> Vec<Extent> {
        let mut out = Extents::default();
        // What would be driven out at once by what comes behind it does not come in.
        let room_bytes = (self.pages_max * PAGE_BYTES) as u64;
        let through_bytes = len_bytes.saturating_sub(room_bytes) / PAGE_BYTES as u64 * PAGE_BYTES as u64;
        if through_bytes > 0 {
            self.forget(offset_bytes, through_bytes);
            out.zeros(offset_bytes, through_bytes);
        }
        for part in parts(offset_bytes + through_bytes, len_bytes - through_bytes) {
            self.put(&part, None, &mut out);
        }
        out.0
    }

    /// What is written there goes past the cache to the medium, so that nothing older may follow it.
    pub fn forget(&mut self, offset_bytes: u64, len_bytes: u64) {
        let touched = touched(offset_bytes, len_bytes);
        let numbers: Vec<u64> = self.pages.range(touched).map(|(number, _)| *number).collect();
        for number in numbers {
            let begin = number * PAGE_BYTES as u64;
            let from = offset_bytes.saturating_sub(begin) as usize;
            let to = (offset_bytes + len_bytes - begin).min(PAGE_BYTES as u64) as usize;
            let Some(page) = self.pages.get_mut(&number) else { continue };
            page.unflushed &= !mask(from, to - from);
            if page.unflushed == 0 {
                self.ages.remove(&page.age);
                self.pages.remove(&number);
            }
        }
    }

    /// Puts what is held over what the medium gave.
    pub fn overlay(&self, offset_bytes: u64, medium: &mut [u8]) {
        let end_bytes = offset_bytes + medium.len() as u64;
        for (number, page) in self.pages.range(touched(offset_bytes, medium.len() as u64)) {
            for sector in sectors(page.unflushed) {
                let at = number * PAGE_BYTES as u64 + (sector * SECTOR_BYTES) as u64;
                if at >= offset_bytes && at < end_bytes {
                    let to = (at - offset_bytes) as usize;
                    medium[to..to + SECTOR_BYTES].copy_from_slice(page.sector(sector));
                }
            }
        }
    }

    /// Everything that is held, which is flushed when it is on the medium.
    pub fn flush(&mut self) -> Vec<Extent> {
        let mut out = Extents::default();
        for (number, page) in &self.pages {
            out.page(*number, page, page.unflushed);
        }
        self.clear();
        out.0
    }

    /// The power goes: some of what is held reaches the medium, the rest is lost.
    pub fn lose_power(&mut self) -> Loss {
        let survivors = self.rng.u8(..SURVIVORS_OF);
        let (mut out, mut unflushed_sectors, mut kept) = (Extents::default(), 0, 0);
        for (number, page) in &self.pages {
            let survives = |_: &usize| self.rng.u8(..SURVIVORS_OF) < survivors;
            let chosen = sectors(page.unflushed).filter(survives).fold(0, |all, sector| all | 1 << sector);
            out.page(*number, page, chosen);
            unflushed_sectors += u64::from(page.unflushed.count_ones());
            kept += u64::from(chosen.count_ones());
        }
        self.clear();
        Loss { survived: out.0, unflushed_sectors, lost_sectors: unflushed_sectors - kept }
    }

    fn clear(&mut self) {
        self.pages.clear();
        self.ages.clear();
    }

    fn put(&mut self, part: &Part, bytes: Option<&[u8]>, out: &mut Extents) {
        let written = mask(part.at, part.len);
        if let Some(page) = self.pages.get(&part.number)
            && page.unflushed & written != 0
            && self.rng.u8(..DESTAGED_ONE_OF) == 0
        {
            out.page(part.number, page, page.unflushed & written & self.rng.u8(..));
        }
        let page = self.pages.entry(part.number).or_insert_with(|| {
            let age = self.next_age;
            self.next_age += 1;
            self.ages.insert(age, part.number);
            Page { bytes: Box::new([0; PAGE_BYTES]), unflushed: 0, age }
        });
        let to = &mut page.bytes[part.at..part.at + part.len];
        match bytes {
            Some(bytes) => to.copy_from_slice(bytes),
            None => to.fill(0),
        }
        page.unflushed |= written;
        while self.pages.len() > self.pages_max {
            let Some((_, number)) = self.ages.pop_first() else { break };
            if let Some(page) = self.pages.remove(&number) {
                out.page(number, &page, page.unflushed);
            }
        }
    }
}

impl Page {
    fn sector(&self, sector: usize) -> &[u8] {
        &self.bytes[sector * SECTOR_BYTES..(sector + 1) * SECTOR_BYTES]
    }
}

/// A part of something that lies in one page.
struct Part {
    number: u64,
    at: usize,
    len: usize,
}

fn parts(offset_bytes: u64, len_bytes: u64) -> impl Iterator<Item = Part> {
    let end = offset_bytes + len_bytes;
    let mut next = offset_bytes;
    std::iter::from_fn(move || {
        (next < end).then(|| {
            let at = (next % PAGE_BYTES as u64) as usize;
            let len = (PAGE_BYTES - at).min((end - next) as usize);
            let number = next / PAGE_BYTES as u64;
            next += len as u64;
            Part { number, at, len }
        })
    })
}

/// The numbers of the pages in which something lies.
fn touched(offset_bytes: u64, len_bytes: u64) -> std::ops::Range<u64> {
    offset_bytes / PAGE_BYTES as u64..(offset_bytes + len_bytes).div_ceil(PAGE_BYTES as u64)
}

/// The sectors of a page from there on, so many bytes.
fn mask(at: usize, len: usize) -> u8 {
    sectors(ALL)
        .filter(|sector| (at..at + len).contains(&(sector * SECTOR_BYTES)))
        .fold(0, |all, sector| all | 1 << sector)
}

fn sectors(mask: u8) -> impl Iterator<Item = usize> {
    (0..SECTORS).filter(move |sector| mask & 1 << sector != 0)
}

/// What goes to the medium; what lies side by side is one.
#[derive(Default)]
struct Extents(Vec<Extent>);

impl Extents {
    fn page(&mut self, number: u64, page: &Page, chosen: u8) {
        let offset_bytes = number * PAGE_BYTES as u64;
        if chosen == ALL && page.bytes.iter().all(|byte| *byte == 0) {
            return self.zeros(offset_bytes, PAGE_BYTES as u64);
        }
        for sector in sectors(chosen) {
            self.data(offset_bytes + (sector * SECTOR_BYTES) as u64, page.sector(sector));
        }
    }

    fn zeros(&mut self, offset_bytes: u64, len_bytes: u64) {
        if let Some(Extent { offset_bytes: begin, content: Content::Zeros(len) }) = self.0.last_mut()
            && *begin + *len == offset_bytes
        {
            *len += len_bytes;
            return;
        }
        self.0.push(Extent { offset_bytes, content: Content::Zeros(len_bytes) });
    }

    fn data(&mut self, offset_bytes: u64, bytes: &[u8]) {
        if let Some(Extent { offset_bytes: begin, content: Content::Data(data) }) = self.0.last_mut()
            && *begin + data.len() as u64 == offset_bytes
        {
            data.extend_from_slice(bytes);
            return;
        }
        self.0.push(Extent { offset_bytes, content: Content::Data(bytes.to_owned()) });
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
