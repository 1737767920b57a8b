//! The files of a data directory: which tables they have, and who may open them.
//!
//! ```text
//! topics  app, kind, name           -> a topic: its numbering (see `record`)
//! events  topic, offset             -> an event
//! due     app, minute, kind, name   -> nothing: something of a topic, or a fact, is past its time in that minute
//! facts   kind, app, name           -> what is remembered until a time (see `facts`)
//! meta    text                      -> the rest: format, apps, sums, numberings given
//! ```
//!
//! Numbers in keys are big-endian, so that keys are in their order.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use ahash::AHashMap;
use fjall::{
    AbstractTree as _, Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch as WriteBatch,
    PersistMode,
};

use super::journal::{self, Cut, Left};
use crate::limits::{DATA_BUFFER, DATA_CACHE_BYTES, DATA_JOURNAL_BYTES, DATA_TABLE_BUFFER};

/// How the files are laid out. A version that changes this reads the one before as well.
pub(super) const FORMAT: u32 = 1;

/// What the names of apps in `meta` begin with.
pub(super) const APP: &[u8] = b"app:";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The directory cannot be made or read.
    #[error("cannot use the data directory {}: {error}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Another process has it open.
    #[error("the data directory {} is in use by {owner}; a directory serves one process at a time", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Which process that is.
        owner: String,
    },
    /// A later version wrote it.
    #[error(
        "the data directory {} has format {found}, and this version reads formats up to {FORMAT}; install the \
         version that wrote it", path.display()
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The files are damaged.
    #[error("the data directory {} is damaged: {why}; run `fanfare data check`, or restore a backup", path.display())]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl DataError {
    fn io(path: &Path, error: io::Error) -> Self {
        Self::Io {
            path: path.to_owned(),
            error,
        }
    }

    /// What is wrong with the directory at `path` if `fault` happens to its files.
    pub(super) fn of(path: &Path, fault: impl Into<Fault>) -> Self {
        let path = path.to_owned();
        match fault.into() {
            Fault::Io(why) => Self::Io {
                path,
                error: io::Error::other(String::from(&*why)),
            },
            Fault::Damage(why) => Self::Damaged {
                path,
                why: String::from(&*why),
            },
        }
    }
}

/// An open data directory, with the writes of the group that is being made.
pub(super) struct Tables {
    database: Database,
    pub(super) topics: Keyspace,
    pub(super) events: Keyspace,
    pub(super) due: Keyspace,
    pub(super) facts: Keyspace,
    pub(super) meta: Keyspace,
    batch: WriteBatch,
    /// About how many bytes are only in the journal and in memory.
    unsorted: u64,
    /// Locked, so that no other process opens the directory. It comes last: the database is closed before.
    _owner: File,
}

/// What a group that was written survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Survives {
    /// The end of the process.
    EndOfProcess,
    /// That, and a power loss.
    PowerLoss,
}

impl Tables {
    /// Opens the directory at `path`, which is made if it is not there. Takes some milliseconds, whatever it holds.
    ///
    /// # Errors
    /// [`DataError`].
    pub(super) fn open(path: &Path) -> Result<Self, DataError> {
        Self::open_left(path, Left::Ended)
    }

    /// The same, for a directory that was left like this.
    ///
    /// # Errors
    /// [`DataError`].
    pub(super) fn open_left(path: &Path, left: Left) -> Result<Self, DataError> {
        let io = |error| DataError::io(path, error);
        fs::create_dir_all(path).map_err(io)?;
        // First of all: what follows would destroy the files of a process that has them open.
        let owner = own(path)?;
        remove_unfinished(path).map_err(io)?;
        let Cut { whole, torn } = journal::cut_torn(path, left).map_err(io)?;

        if torn > 0 {
            let path = path.display();
            tracing::info!(%path, "{torn} bytes were being written when the server ended, and are left out");
        }

        let database = Database::builder(path)
            .cache_size(DATA_CACHE_BYTES)
            .max_journaling_size(DATA_JOURNAL_BYTES)
            // One moves what is in memory to sorted files, and the other merges these.
            .worker_threads(2)
            .open()
            .map_err(|error| cannot_open(path, error))?;

        let table = |name: &str| {
            let options = || KeyspaceCreateOptions::default().max_memtable_size(DATA_TABLE_BUFFER);
            let table = database.keyspace(name, options);
            table.map_err(|error| DataError::of(path, error))
        };

        let tables = Self {
            topics: table("topics")?,
            events: table("events")?,
            due: table("due")?,
            facts: table("facts")?,
            meta: table("meta")?,
            batch: database.batch(),
            unsorted: whole,
            database,
            _owner: owner,
        };

        tables.check_format(path)?;
        Ok(tables)
    }

    /// The same for a directory that is there.
    ///
    /// # Errors
    /// [`DataError`].
    pub(super) fn open_existing(path: &Path) -> Result<Self, DataError> {
        // Opening makes what is missing, which would make a directory of a name that is misspelled.
        fs::metadata(owner_file(path)).map_err(|error| DataError::io(path, error))?;
        Self::open(path)
    }

    /// The names of all apps by their numbers.
    pub(super) fn apps(&self) -> fjall::Result<AHashMap<u32, String>> {
        let mut apps = AHashMap::new();
        for guard in self.meta.prefix(APP) {
            let (key, number) = guard.into_inner()?;
            let name = String::from_utf8_lossy(&key[APP.len()..]).into_owned();
            if let Ok(number) = <[u8; 8]>::try_from(&number[..]) {
                apps.insert(u64::from_be_bytes(number) as u32, name);
            }
        }
        Ok(apps)
    }

    /// Rewrites all files without what was removed.
    pub(super) fn compact(&self) -> fjall::Result<()> {
        for table in self.all() {
            table.rotate_memtable_and_wait()?;
            table.major_compact()?;
        }
        Ok(())
    }

    /// Notes the format in a new directory, and refuses one that this version cannot read.
    fn check_format(&self, path: &Path) -> Result<(), DataError> {
        let found = self
            .number("format")
            .map_err(|error| DataError::of(path, error))?;
        match found {
            Some(found) if found == u64::from(FORMAT) => Ok(()),
            Some(found) => Err(DataError::Newer {
                path: path.to_owned(),
                found: found as u32,
            }),
            None => self
                .meta
                .insert("format", u64::from(FORMAT).to_be_bytes())
                .and_then(|()| self.database.persist(PersistMode::SyncAll))
                .map_err(|error| DataError::of(path, error)),
        }
    }

    /// The number that `meta` has under `name`.
    pub(super) fn number(&self, name: impl AsRef<[u8]>) -> fjall::Result<Option<u64>> {
        let value = self.meta.get(name)?;
        Ok(value.and_then(|value| Some(u64::from_be_bytes(value[..].try_into().ok()?))))
    }

    /// Writes a number to `meta` with the group.
    pub(super) fn set_number(&mut self, name: impl AsRef<[u8]>, number: u64) {
        let meta = self.meta.clone();
        self.insert(&meta, name.as_ref(), &number.to_be_bytes());
    }

    /// Adds a write to the group.
    pub(super) fn insert(&mut self, table: &Keyspace, key: &[u8], value: &[u8]) {
        self.unsorted += (key.len() + value.len()) as u64;
        self.batch.insert(table, key, value);
    }

    /// Adds a removal to the group.
    pub(super) fn remove(&mut self, table: &Keyspace, key: &[u8]) {
        self.unsorted += key.len() as u64;
        self.batch.remove(table, key);
    }

    /// Whether the group has writes.
    pub(super) fn has_writes(&self) -> bool {
        !self.batch.is_empty()
    }

    /// Writes the group, all of it or nothing. From then on it survives what `survives` says.
    pub(super) fn commit(&mut self, survives: Survives) -> fjall::Result<()> {
        if !self.has_writes() {
            return Ok(());
        }

        let mode = match survives {
            Survives::PowerLoss => PersistMode::SyncData,
            Survives::EndOfProcess => PersistMode::Buffer,
        };

        let next = self.database.batch();
        let batch = std::mem::replace(&mut self.batch, next);
        batch.durability(Some(mode)).commit()?;

        if self.unsorted >= DATA_BUFFER {
            self.unsorted = 0;
            self.begin_sorting()?;
        }

        Ok(())
    }

    /// Lets what is in memory be moved to sorted files. All tables at the same time: a journal goes when none needs it any
    /// longer. The database itself looks at each table alone, and asks the thread that is busy with that, so that journals and
    /// memory would have no bound.
    fn begin_sorting(&self) -> fjall::Result<()> {
        self.await_sorting()?;
        for table in self.all() {
            table.rotate_memtable()?;
        }
        Ok(())
    }

    /// Waits until the threads that sort and merge keep up. The database waits for them too, a little later, and does so
    /// forever if one of them has failed.
    fn await_sorting(&self) -> fjall::Result<()> {
        // Both are a little below what makes the database itself wait.
        let is_behind = |table: &&Keyspace| {
            table.tree.sealed_memtable_count() > 2 || table.tree.l0_run_count() > 24
        };
        while self.all().iter().any(is_behind) {
            // It says whether one has failed.
            self.database.persist(PersistMode::Buffer)?;
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn all(&self) -> [&Keyspace; 5] {
        [
            &self.topics,
            &self.events,
            &self.due,
            &self.facts,
            &self.meta,
        ]
    }

    /// Lets all that was written survive a power loss.
    pub(super) fn sync(&self) -> fjall::Result<()> {
        self.database.persist(PersistMode::SyncData)
    }

    /// What was committed by now, whatever is written after this.
    pub(super) fn snapshot(&self) -> fjall::Snapshot {
        self.database.snapshot()
    }
}

/// The file that says which process has the directory open.
fn owner_file(path: &Path) -> PathBuf {
    path.join("owner")
}

/// Locks the directory, and notes who has it, for the message that another process gets.
fn own(path: &Path) -> Result<File, DataError> {
    let io = |error| DataError::io(path, error);
    let file = owner_file(path);
    let mut options = File::options();

    // Emptied only when it is locked.
    options.read(true).write(true).create(true).truncate(false);
    let mut owner = options.open(&file).map_err(io)?;
    match owner.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(locked(path)),
        Err(TryLockError::Error(error)) => return Err(io(error)),
    }

    // The note is for other processes. This one may have to open a directory on a full disk, so a
    // failure to write it is ignored.
    let noted = owner.set_len(0);
    let _ = noted.and_then(|()| write!(owner, "process {}", std::process::id()));
    Ok(owner)
}

fn locked(path: &Path) -> DataError {
    let owner = fs::read_to_string(owner_file(path)).unwrap_or_default();
    DataError::Locked {
        path: path.to_owned(),
        owner: match owner.trim() {
            "" => "another process".to_owned(),
            owner => owner.to_owned(),
        },
    }
}

/// Removes what is left of a database whose making was cut short: it would be in the way of making it again.
fn remove_unfinished(path: &Path) -> io::Result<()> {
    // The version is written last.
    let version = path.join("version");
    if fs::metadata(&version).is_ok_and(|version| version.len() > 0) {
        return Ok(());
    }

    let tables = fs::read_dir(path.join("keyspaces"));
    if tables.is_ok_and(|mut tables| tables.next().is_some()) {
        return Ok(());
    }

    for file in [version, path.join("0.jnl")] {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }

    Ok(())
}

fn cannot_open(path: &Path, error: fjall::Error) -> DataError {
    match error {
        fjall::Error::Locked => locked(path),
        error => DataError::of(path, error),
    }
}

/// Why the store cannot do what it is asked.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The system cannot read or write its files.
    #[error("{0}")]
    Io(Arc<str>),
    /// They have something that was not written like this.
    #[error("{0}")]
    Damage(Arc<str>),
}

impl From<fjall::Error> for Fault {
    fn from(error: fjall::Error) -> Self {
        use fjall::{Error, LsmError};
        match error {
            Error::Io(error) | Error::Storage(LsmError::Io(error)) => {
                Self::Io(error.to_string().into())
            }
            Error::Poisoned => {
                Self::Io("an earlier write to the files failed; is the disk full?".into())
            }
            error => Self::Damage(error.to_string().into()),
        }
    }
}

impl Fault {
    /// Why it is, in words.
    pub(super) fn why(self) -> Arc<str> {
        match self {
            Self::Io(why) | Self::Damage(why) => why,
        }
    }
}
