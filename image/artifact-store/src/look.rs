//! Looking at a file before it is opened: most requests are for a content that is known already, and need no descriptor
//! of it.
//!
//! One request looks through one set of [`Folders`]. Their descriptors are opened by the kernel without following a link,
//! and closed with the request, so a folder or file that was replaced, removed or added is seen by the next request, and
//! no deleted file is kept from being freed. Looking never reads and never follows a link either.

use std::os::fd::{AsFd as _, OwnedFd};

use boot_manifest::{Arch, Channel, FileName};

use crate::beneath::{self, OpenError};
use crate::identity::{Identity, OpenFile};
use crate::layout;
use crate::store::Store;
use crate::watch::Looking;

/// The folders of one channel and architecture, one for each spelling. Each is opened when it is first looked into.
#[derive(Debug)]
pub struct Folders<'a> {
    store: &'a Store,
    channel: &'a Channel,
    looking: Option<&'a Looking<'a>>,
    spelled: Vec<(&'static str, Option<Result<OwnedFd, OpenError>>)>,
}

/// A name that exists.
#[derive(Debug)]
pub struct Seen<'a> {
    folder: &'a OwnedFd,
    name: &'a str,
    identity: Option<Identity>,
}

impl Store {
    /// The folders a client means by `asked`, a spelling of `arch`; that spelling comes first.
    pub fn folders<'a>(&'a self, channel: &'a Channel, arch: Arch, asked: &str) -> Folders<'a> {
        let spellings = layout::spellings(arch, asked);
        Folders {
            store: self,
            channel,
            looking: None,
            spelled: spellings.into_iter().map(|name| (name, None)).collect(),
        }
    }
}

impl<'a> Folders<'a> {
    /// The same folders; they and every file that is looked at are watched before that.
    pub fn watched(mut self, looking: &'a Looking<'a>) -> Self {
        self.looking = Some(looking);
        // A channel that comes is told by the root; any other error is met again at the first look.
        if let Ok(channel) = beneath::place(self.store.root(), self.channel.as_str()) {
            looking.folder(channel);
        }
        self
    }
}

impl Folders<'_> {
    /// Looks for `name` and its usual aliases. The first candidate that exists decides.
    pub fn look<'a>(&'a mut self, name: &'a FileName) -> Result<Seen<'a>, OpenError> {
        let (store, channel, looking) = (self.store, self.channel, self.looking);
        for (spelling, folder) in &mut self.spelled {
            let folder = folder.get_or_insert_with(|| {
                let path = layout::folder_path(channel, spelling);
                let folder = beneath::place(store.root(), &path)?;
                if let Some(looking) = looking {
                    looking.folder(&folder);
                }
                Ok(folder)
            });
            let folder = match folder {
                Ok(folder) => &*folder,
                Err(OpenError::NotFound) => continue,
                Err(error) => return Err(error.clone()),
            };
            for name in layout::candidates(name) {
                if let Some(looking) = looking {
                    looking.file(folder, name);
                }
                match beneath::look(folder.as_fd(), name) {
                    Err(OpenError::NotFound) => {}
                    Err(error) => return Err(error),
                    Ok(stat) => {
                        return Ok(Seen {
                            folder,
                            name,
                            identity: stat.as_ref().map(Identity::of),
                        });
                    }
                }
            }
        }
        Err(OpenError::NotFound)
    }
}

impl Folders<'_> {
    /// The one file that is the artifact called `name` although it has no usual name, such as `vmlinuz-6.12`.
    pub fn find_only(&self, name: &FileName) -> Result<OpenFile, OpenError> {
        if layout::candidates(name).len() < 2 {
            return Err(OpenError::NotFound);
        }
        let spellings = self.spelled.iter().map(|(spelling, _)| *spelling);
        let scan = self
            .store
            .scan_spelled(self.channel, spellings, self.looking);
        let only = scan
            .found
            .into_iter()
            .find(|found| found.artifact.as_str() == name.as_str());
        only.map(|found| found.file).ok_or(OpenError::NotFound)
    }
}

impl Seen<'_> {
    /// The name it was found under, which can differ from the one asked for.
    pub fn name(&self) -> &str {
        self.name
    }

    /// Which content it is; nothing when it is no regular file, and opening it will say why.
    pub fn identity(&self) -> Option<Identity> {
        self.identity
    }

    /// Opens it. By now it can be another file than the one seen; the identity of what is returned is its own.
    pub fn open(&self) -> Result<OpenFile, OpenError> {
        let (file, stat) = beneath::regular(self.folder, self.name)?;
        let name = self.name.parse().map_err(|_| OpenError::NotFound)?;
        Ok(OpenFile::new(file, name, Identity::of(&stat)))
    }
}
