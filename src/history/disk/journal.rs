//! The end of a database's journal, which a power loss may leave torn.
//!
//! A group is written as `start, item…, end`, and the end has a checksum of the items. Pages reach the disk in any order, so
//! after a power loss the end of the last group may be there without its middle. The database takes that for damage. It is
//! not: such a group was not synced, so nobody was promised it, and neither was anything after it. The journal is cut before
//! the first group that is not whole, as most databases do it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::Xxh3;

/// What the file `version` begins with if the journal is written as this module reads it; also the end of each group.
const MAGIC: [u8; 4] = *b"FJL\x03";

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;

/// Length of an item without its key and its value.
const ITEM_HEAD: usize = 21;

/// How the journal was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// By a process that has ended.
    Ended,
    /// By this one, after writing or syncing has failed. The system may then show bytes that it never writes to the disk.
    Failed,
}

/// What of a journal can be read, and what was cut off, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cut {
    pub(super) whole: u64,
    pub(super) torn: u64,
}

/// Cuts the newest journal of the database in `directory` after its last whole group.
/// Older journals were synced before it was begun.
///
/// # Errors
/// The journal cannot be read or cut.
pub(super) fn cut_torn(directory: &Path, left: Left) -> io::Result<Cut> {
    // A later version may have another layout, which this would cut in the wrong place.
    if !is_known(directory) {
        return Ok(Cut::default());
    }
    let Some(path) = newest(directory)? else {
        return Ok(Cut::default());
    };

    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    let length = file.metadata()?.len();
    let mut groups = Groups {
        rest: length,
        reader: BufReader::new(&file),
        item: Vec::new(),
    };

    let mut whole = 0;
    while let Some(group) = groups.next_length()? {
        whole += group;
    }

    // A journal has zeros where nothing was written yet.
    let torn = written_after(&file, whole)?;
    match left {
        // What the system shows may differ from the disk, so even the whole groups are written and
        // synced again.
        Left::Failed => write_again(&file, whole, &path)?,
        Left::Ended if torn > 0 => {
            file.set_len(whole)?;
            file.sync_all()?;
        }
        Left::Ended => {}
    }

    Ok(Cut { whole, torn })
}

/// Replaces the journal at `path` by a file with its first `length` bytes, which are on the disk then.
fn write_again(mut journal: &File, length: u64, path: &Path) -> io::Result<()> {
    let new_path = path.with_extension("new");
    let mut new = File::create(&new_path)?;
    journal.seek(SeekFrom::Start(0))?;
    io::copy(&mut journal.take(length), &mut new)?;
    new.sync_all()?;
    fs::rename(new_path, path)?;
    // The new name has to survive a power loss too.
    let directory = path.parent().map(File::open).transpose()?;
    directory.map_or(Ok(()), |directory| directory.sync_all())
}

/// Whether the database was written by a version whose journals this module can read.
fn is_known(directory: &Path) -> bool {
    let version = fs::read(directory.join("version"));
    version.is_ok_and(|version| version.starts_with(&MAGIC))
}

/// The journal that is written to: that with the highest number.
fn newest(directory: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str());
        let number = number.and_then(|number| number.parse::<u64>().ok());
        if let Some(number) = number
            && path.extension().is_some_and(|end| end == "jnl")
        {
            newest = newest.max(Some((number, path)));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// How far after `start` anything but zeros is written.
fn written_after(mut file: &File, start: u64) -> io::Result<u64> {
    file.seek(SeekFrom::Start(start))?;
    let (mut at, mut written) = (0, 0);
    let mut piece = vec![0; 64 * 1024];

    loop {
        let length = file.read(&mut piece)?;
        if length == 0 {
            return Ok(written);
        }
        if let Some(last) = piece[..length].iter().rposition(|byte| *byte != 0) {
            written = at + last as u64 + 1;
        }
        at += length as u64;
    }
}

/// The groups of a journal, in their order.
struct Groups<'a> {
    reader: BufReader<&'a File>,
    /// Bytes that are not read yet.
    rest: u64,
    item: Vec<u8>,
}

impl Groups<'_> {
    /// The length of the next group; absent if there is none that is whole.
    fn next_length(&mut self) -> io::Result<Option<u64>> {
        let before = self.rest;
        // They are a kind, the number of items, and a sequence number, which says nothing of the
        // length.
        let Some([START, count @ .., _, _, _, _, _, _, _, _]) = self.take::<13>()? else {
            return Ok(None);
        };

        let mut checksum = Xxh3::new();
        for _ in 0..u32::from_le_bytes(count) {
            if !self.add_item(&mut checksum)? {
                return Ok(None);
            }
        }

        let Some(end) = self.take::<13>()? else {
            return Ok(None);
        };

        let mut expected = [END; 13];
        expected[1..9].copy_from_slice(&checksum.digest().to_le_bytes());
        expected[9..].copy_from_slice(&MAGIC);

        Ok((end == expected).then(|| before - self.rest))
    }

    /// Adds the next item to the checksum of its group; false if there is none that is whole.
    fn add_item(&mut self, checksum: &mut Xxh3) -> io::Result<bool> {
        let Some(head) = self.take::<ITEM_HEAD>()? else {
            return Ok(false);
        };
        // Only the lengths of the key and the value are needed. The rest is the database's own.
        let [ITEM, _, _, .., k0, k1, _, _, _, _, v0, v1, v2, v3] = head else {
            return Ok(false);
        };

        let key = u64::from(u16::from_le_bytes([k0, k1]));
        let length = key + u64::from(u32::from_le_bytes([v0, v1, v2, v3]));
        // The head may be torn, and claim any length.
        if length > self.rest {
            return Ok(false);
        }

        self.item.resize(length as usize, 0);
        self.reader.read_exact(&mut self.item)?;
        self.rest -= length;
        checksum.update(&head);
        checksum.update(&self.item);

        Ok(true)
    }

    /// The next `N` bytes; absent if there are fewer.
    fn take<const N: usize>(&mut self) -> io::Result<Option<[u8; N]>> {
        if self.rest < N as u64 {
            return Ok(None);
        }
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.rest -= N as u64;
        Ok(Some(bytes))
    }
}
