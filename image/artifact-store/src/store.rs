//! The artifacts directory as providers see it: finding one file, and looking through a folder.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use boot_manifest::limits::ARTIFACT_SIZE_MAX;
use boot_manifest::{Arch, ArtifactName, Channel, FileName};
use rustix::fs::Dir;

use crate::beneath::{self, OpenError};
use crate::hashes::Hashes;
use crate::identity::{Identity, OpenFile};
use crate::layout::{self, MANIFEST_FILE, ROOTS_FILE};
use crate::limits::{CHANNELS_MAX, FOLDER_FILES_MAX};
use crate::watch::{Looking, Watch};

/// An artifacts directory: `<root>/<channel>/<arch>/<file>`.
#[derive(Debug)]
pub struct Store {
    root: OwnedFd,
    path: PathBuf,
    hashes: Hashes,
}

/// A file that belongs into the manifest of its folder.
#[derive(Debug)]
pub struct Found {
    /// What it is for.
    pub artifact: ArtifactName,
    /// The file, opened.
    pub file: OpenFile,
}

/// What a look through a folder found.
#[derive(Debug, Default)]
pub struct Scan {
    /// The artifacts in ascending order of their names.
    pub found: Vec<Found>,
    /// Files left out, and why.
    pub problems: Vec<Problem>,
}

/// Something a person should know about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, relative to the artifacts directory.
    pub file: String,
    /// What is wrong.
    pub reason: Reason,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It cannot be opened, or is no regular file.
    Open(OpenError),
    /// It has no bytes.
    Empty,
    /// It is larger than an artifact may be.
    TooLarge(u64),
    /// Several files could be this artifact and none has its usual name: none is taken.
    Ambiguous(ArtifactName, Vec<String>),
    /// Another file is this artifact.
    Shadowed(ArtifactName, String),
    /// The folder has more files than are looked at.
    TooMany,
}

impl Reason {
    /// Whether something that should be served is not. The others are remarks.
    pub fn is_fault(&self) -> bool {
        !matches!(self, Self::Shadowed(..))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = &self.file;
        match &self.reason {
            Reason::Open(error) => write!(f, "{file}: {error}"),
            Reason::Empty => write!(f, "{file}: is empty"),
            Reason::TooLarge(size) => {
                write!(
                    f,
                    "{file}: has {size} bytes; an artifact may have {ARTIFACT_SIZE_MAX}"
                )
            }
            Reason::Ambiguous(artifact, files) => write!(
                f,
                "{file}: no {artifact}, because {} could all be it; give one its usual name",
                files.join(", ")
            ),
            Reason::Shadowed(artifact, chosen) => {
                write!(f, "{file}: is not the {artifact}, {chosen} is")
            }
            Reason::TooMany => write!(
                f,
                "{file}: more than {FOLDER_FILES_MAX} files; the rest is left out"
            ),
        }
    }
}

impl Store {
    /// Opens an artifacts directory, which must exist.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let root = beneath::root(path)?;
        Ok(Self {
            root,
            path: path.to_owned(),
            hashes: Hashes::default(),
        })
    }

    /// Its path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its descriptor, for asking about the file system it lies in.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Whether its path leads to another directory by now. This one stays the one that was opened.
    pub fn is_replaced(&self) -> Result<bool, OpenError> {
        let (now, opened) = (
            rustix::fs::stat(&self.path)?,
            rustix::fs::fstat(&self.root)?,
        );
        Ok((now.st_dev, now.st_ino) != (opened.st_dev, opened.st_ino))
    }

    /// The digests of its files.
    pub fn hashes(&self) -> &Hashes {
        &self.hashes
    }

    /// Starts to watch it; an error where that cannot be done.
    pub fn watch(&self) -> io::Result<Watch> {
        Watch::new(self.root())
    }

    /// Opens the file a client asks for. `arch` is the spelling it used; every spelling and alias is tried in order.
    ///
    /// The first candidate that exists decides: when it cannot be read, that is the answer.
    pub fn find(
        &self,
        channel: &Channel,
        arch: &str,
        name: &FileName,
    ) -> Result<OpenFile, OpenError> {
        let known: Arch = arch.parse().map_err(|_| OpenError::NotFound)?;
        let mut folders = self.folders(channel, known, arch);
        match folders.look(name) {
            Ok(seen) => seen.open(),
            Err(OpenError::NotFound) => folders.find_only(name),
            Err(error) => Err(error),
        }
    }

    /// The channels there are, sorted: directories whose names could be one's.
    pub fn channels(&self) -> Vec<Channel> {
        let Ok(dir) = beneath::folder(&self.root, ".").and_then(|dir| Ok(Dir::read_from(dir)?))
        else {
            return Vec::new();
        };
        let mut channels: Vec<Channel> = dir
            .filter_map(Result::ok)
            .filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok())
            .filter(|channel: &Channel| beneath::place(&self.root, channel.as_str()).is_ok())
            .take(CHANNELS_MAX)
            .collect();
        channels.sort();
        channels
    }

    /// Looks through the folder of `channel` and `arch`. Whatever is wrong with one file leaves the others in place.
    pub fn scan(&self, channel: &Channel, arch: Arch) -> Scan {
        self.scan_spelled(channel, layout::spellings(arch, arch.as_str()), None)
    }

    /// The same look; the folders and every file that is found are watched before they are looked at.
    ///
    /// [`Folders::watched`] watches the channel's folder, so look for the manifest with it first.
    pub fn scan_watched(&self, channel: &Channel, arch: Arch, looking: &Looking<'_>) -> Scan {
        self.scan_spelled(
            channel,
            layout::spellings(arch, arch.as_str()),
            Some(looking),
        )
    }

    pub(crate) fn scan_spelled(
        &self,
        channel: &Channel,
        spellings: impl IntoIterator<Item = &'static str>,
        looking: Option<&Looking<'_>>,
    ) -> Scan {
        let mut scan = Scan::default();
        let mut claims: BTreeMap<ArtifactName, Vec<Claim>> = BTreeMap::new();
        for spelling in spellings {
            let path = layout::folder_path(channel, spelling);
            let listed = beneath::folder(&self.root, &path).and_then(|dir| {
                if let Some(looking) = looking {
                    looking.folder(&dir);
                }
                list(&dir)
            });
            let names = match listed {
                Ok(names) => names,
                Err(OpenError::NotFound) => continue,
                Err(error) => {
                    scan.problems.push(Problem {
                        file: path,
                        reason: Reason::Open(error),
                    });
                    continue;
                }
            };
            if names.len() > FOLDER_FILES_MAX {
                scan.problems.push(Problem {
                    file: path.clone(),
                    reason: Reason::TooMany,
                });
            }
            for name in names.into_iter().take(FOLDER_FILES_MAX) {
                if let Some(artifact) = layout::artifact_of(&name) {
                    let path = format!("{path}/{name}");
                    claims
                        .entry(artifact)
                        .or_default()
                        .push(Claim { path, name });
                }
            }
        }
        for (artifact, claims) in claims {
            settle(self.root.as_fd(), looking, artifact, claims, &mut scan);
        }
        scan
    }
}

/// A file whose name says that it is a certain artifact.
struct Claim {
    path: String,
    name: FileName,
}

/// Decides which of the files that claim to be `artifact` is it.
fn settle(
    root: BorrowedFd<'_>,
    looking: Option<&Looking<'_>>,
    artifact: ArtifactName,
    mut claims: Vec<Claim>,
    scan: &mut Scan,
) {
    // Stable: of two spellings of the folder the first one wins.
    claims.sort_by_key(|claim| layout::rank(&artifact, &claim.name));
    let Some(best) = claims.first() else { return };
    let same_rank = claims
        .iter()
        .filter(|claim| claim.name != best.name)
        .filter(|claim| {
            layout::rank(&artifact, &claim.name) == layout::rank(&artifact, &best.name)
        });
    if same_rank.count() > 0 {
        let files = claims.iter().map(|claim| claim.name.to_string()).collect();
        let file = best
            .path
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder)
            .to_owned();
        scan.problems.push(Problem {
            file,
            reason: Reason::Ambiguous(artifact, files),
        });
        return;
    }
    for other in &claims[1..] {
        let reason = Reason::Shadowed(artifact.clone(), best.path.clone());
        scan.problems.push(Problem {
            file: other.path.clone(),
            reason,
        });
    }
    match open_artifact(root, looking, best) {
        Ok(file) => scan.found.push(Found { artifact, file }),
        // A directory beside the artifacts is nobody's mistake; one in the place of the kernel is.
        Err(Reason::Open(OpenError::NotRegular("directory")))
            if artifact.as_str() == best.name.as_str()
                && layout::candidates(&best.name).len() < 2 => {}
        Err(reason) => scan.problems.push(Problem {
            file: best.path.clone(),
            reason,
        }),
    }
}

fn open_artifact(
    root: BorrowedFd<'_>,
    looking: Option<&Looking<'_>>,
    claim: &Claim,
) -> Result<OpenFile, Reason> {
    let (file, mut stat) = beneath::regular(root, &claim.path).map_err(Reason::Open)?;
    if let Some(looking) = looking {
        looking.opened(&file);
        stat = beneath::check(&file).map_err(Reason::Open)?;
    }
    let file = OpenFile::new(file, claim.name.clone(), Identity::of(&stat));
    match file.size() {
        0 => Err(Reason::Empty),
        size if size > ARTIFACT_SIZE_MAX => Err(Reason::TooLarge(size)),
        _ => Ok(file),
    }
}

/// The names in a directory that an artifact can have, sorted; those of documents about artifacts are left out. At most one more than are looked at.
fn list(dir: &OwnedFd) -> Result<Vec<FileName>, OpenError> {
    let mut names: Vec<FileName> = Dir::read_from(dir)?
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok())
        .filter(|name: &FileName| ![MANIFEST_FILE, ROOTS_FILE].contains(&name.as_str()))
        .take(FOLDER_FILES_MAX + 1)
        .collect();
    names.sort();
    Ok(names)
}
