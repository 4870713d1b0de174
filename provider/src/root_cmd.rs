//! `plasmd root`: trust roots with several roles, and how one follows another. Uses no network.
//!
//! ```text
//! create ──> trust-root.json (in every image)
//!              │
//!            rotate ──> a draft of the next root ──sign, on the machines that have the keys──> merge
//!                                                                                                │
//!                            roots.json (published beside every manifest) <── append, after all checks
//! ```
//!
//! What machines in the field believe begins with the root of their image and goes on by `roots.json` only; nothing here
//! changes a machine.

mod report;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use boot_manifest::limits::{ROOT_LINK_SIZE_MAX, TRUST_ROOT_SIZE_MAX};
use boot_manifest::{
    PublicKey, ROOT_CHAIN_SIZE_MAX, Role, RoleName, SecretKey, SignError, TrustRoot,
    TrustRootError, append_link, draft_link, merge_links, sign_link, unverified_link, verify_link,
    walk_roots,
};

use crate::exit::{CommandError, Exit};
use crate::key::{self, files};
use crate::out;
use crate::trust;

/// The subcommands.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Make the first trust root: who may sign what
    Create {
        #[command(flatten)]
        roles: RoleArgs,
        /// Mark the keys as development keys, which every tool then mentions
        #[arg(long)]
        development: bool,
        /// Where the trust root goes
        #[arg(short, long, value_name = "FILE")]
        out: PathBuf,
        /// Replace an existing trust root
        #[arg(long)]
        force: bool,
    },
    /// Make a draft of the next trust root; roles that are not named keep their keys
    Rotate {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        roles: RoleArgs,
        /// Where the draft goes
        #[arg(short, long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Add signatures to a draft of the next trust root
    Sign {
        /// The draft
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Sign with this private key; repeat for several
        #[arg(short, long = "key", value_name = "FILE", required = true)]
        keys: Vec<PathBuf>,
        /// Where the signed one goes [default: FILE itself]
        #[arg(short, long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Join copies of one draft that were signed on different machines
    Merge {
        /// The copies
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
        /// Where the joined one goes
        #[arg(short, long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Check the next trust root, and append it to the chain that is published
    Append {
        /// The signed next root
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The first trust root: that of the oldest images in the field
        #[arg(long, value_name = "FILE", default_value = trust::TRUST_ROOT_FILE)]
        trust_root: PathBuf,
        /// The chain; it is made when it does not exist
        #[arg(long, value_name = "FILE", default_value = "roots.json")]
        chain: PathBuf,
    },
    /// Print the newest trust root of a chain as a document for new images
    Newest {
        #[command(flatten)]
        place: Place,
        /// Where it goes; "-" is the standard output
        #[arg(short, long, value_name = "FILE", default_value = "-")]
        out: PathBuf,
    },
    /// Print what a trust root, a draft or a chain says
    Show {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Check drafts and chains against this trust root
        #[arg(long, value_name = "FILE")]
        trust_root: Option<PathBuf>,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Where the newest root is: a first one, and the chain that leads on.
#[derive(clap::Args)]
pub(crate) struct Place {
    /// The first trust root: that of the oldest images in the field
    #[arg(long, value_name = "FILE", default_value = trust::TRUST_ROOT_FILE)]
    trust_root: PathBuf,
    /// The chain that leads from there to the newest
    #[arg(long, value_name = "FILE")]
    chain: Option<PathBuf>,
}

/// The keys of the roles.
#[derive(clap::Args, Default)]
pub(crate) struct RoleArgs {
    /// A public key that signs manifests; repeat for several
    #[arg(long, value_name = "FILE.pub")]
    release: Vec<PathBuf>,
    /// Signatures that a manifest needs [default: as before, or 1]
    #[arg(long, value_name = "N")]
    release_threshold: Option<u64>,
    /// A public key that signs the next trust root, kept offline; repeat for several [default: the release keys]
    #[arg(long, value_name = "FILE.pub")]
    root: Vec<PathBuf>,
    /// Signatures that the next trust root needs [default: as before, or 1]
    #[arg(long, value_name = "N")]
    root_threshold: Option<u64>,
    /// A public key that says which manifest is the newest; repeat for several [default: the release keys]
    #[arg(long, value_name = "FILE.pub")]
    freshness: Vec<PathBuf>,
    /// Signatures that such a statement needs [default: as before, or 1]
    #[arg(long, value_name = "N")]
    freshness_threshold: Option<u64>,
    /// A public key that gives orders to running machines; repeat for several [default: the release keys]
    #[arg(long, value_name = "FILE.pub")]
    operator: Vec<PathBuf>,
    /// Signatures that an order needs [default: as before, or 1]
    #[arg(long, value_name = "N")]
    operator_threshold: Option<u64>,
}

impl RoleArgs {
    fn named(&self) -> [(RoleName, &[PathBuf], Option<u64>); 4] {
        [
            (RoleName::Release, &self.release, self.release_threshold),
            (RoleName::Root, &self.root, self.root_threshold),
            (
                RoleName::Freshness,
                &self.freshness,
                self.freshness_threshold,
            ),
            (RoleName::Operator, &self.operator, self.operator_threshold),
        ]
    }

    /// The same root with the roles that were named.
    fn apply(&self, mut root: TrustRoot) -> Result<TrustRoot, CommandError> {
        // What a role falls back to must not change while the roles are put in one by one.
        let before = root.clone();
        for (name, files, threshold) in self.named() {
            let (keys, threshold) = match (files, threshold) {
                ([], None) => continue,
                ([], Some(threshold)) => (before.role(name).keys().to_vec(), threshold),
                (files, threshold) => {
                    let kept = before.has_own(name).then(|| before.role(name).threshold());
                    (
                        load_publics(files)?,
                        threshold.unwrap_or(kept.unwrap_or(1) as u64),
                    )
                }
            };
            let role = Role::new(threshold, keys).map_err(|error| odd_role(name, &error))?;
            root = root.with_role(name, role);
        }
        Ok(root)
    }

    /// The first root.
    fn create(&self, development: bool) -> Result<TrustRoot, CommandError> {
        let release = load_publics(&self.release)?;
        let threshold = self.release_threshold.unwrap_or(1);
        let root = TrustRoot::new(1, threshold, release, development)
            .map_err(|error| odd_role(RoleName::Release, &error))?;
        self.apply(root)
    }
}

fn odd_role(name: RoleName, error: &TrustRootError) -> CommandError {
    CommandError::usage(format!("--{name}: {error}")).hint(format!(
        "name its keys with --{name} FILE.pub and their number with --{name}-threshold N"
    ))
}

fn load_publics(files: &[PathBuf]) -> Result<Vec<PublicKey>, CommandError> {
    files.iter().map(|file| key::load_public(file)).collect()
}

impl Place {
    /// The first root, and the newest.
    fn newest(&self) -> Result<TrustRoot, CommandError> {
        let start = trust::load_root(&self.trust_root)?;
        match &self.chain {
            None => Ok(start),
            Some(file) => {
                let bytes = trust::read(file, ROOT_CHAIN_SIZE_MAX, "root chain")?;
                walk_roots(&bytes, &start).map_err(|error| refused(file, &error))
            }
        }
    }
}

/// Runs the command.
pub(crate) fn run(command: Command) -> Result<Exit, CommandError> {
    let text = match command {
        Command::Create {
            roles,
            development,
            out,
            force,
        } => create(&roles.create(development)?, &out, force)?,
        Command::Rotate { place, roles, out } => rotate(&place, &roles, &out)?,
        Command::Sign { file, keys, out } => sign(&file, &keys, out.as_deref().unwrap_or(&file))?,
        Command::Merge { files, out } => merge(&files, &out)?,
        Command::Append {
            file,
            trust_root,
            chain,
        } => append(&file, &trust_root, &chain)?,
        Command::Newest { place, out } => {
            let root = place.newest()?;
            if out == Path::new("-") {
                root.to_json()
            } else {
                write(&out, root.to_json().as_bytes())?;
                report::root(&out.display().to_string(), &root)
            }
        }
        Command::Show {
            file,
            trust_root,
            json,
        } => show(&file, trust_root.as_deref(), json)?,
    };
    out::exactly(text);
    Ok(Exit::Done)
}

fn create(root: &TrustRoot, out: &Path, force: bool) -> Result<String, CommandError> {
    let bytes = root.to_json();
    if force {
        write(out, bytes.as_bytes())?;
    } else {
        files::create_new(out, 0o644, bytes.as_bytes()).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => CommandError::local(format!(
                "{}: exists already and is not overwritten",
                out.display()
            ))
            .hint("machines with the old one come to another by `plasmd root rotate`; --force replaces the file"),
            _ => key::unwritable(out, &error),
        })?;
    }
    Ok(report::root(&out.display().to_string(), root))
}

fn rotate(place: &Place, roles: &RoleArgs, out: &Path) -> Result<String, CommandError> {
    let before = place.newest()?;
    let next = before
        .successor()
        .map_err(|error| CommandError::failed(error.to_string()))?;
    let next = roles.apply(next)?;
    let draft = draft_link(&next).map_err(|error| CommandError::failed(error.to_string()))?;
    write(out, &draft)?;
    let text = report::root(&out.display().to_string(), &next);
    Ok(format!("{text}{}", report::needed(&before, &next)))
}

fn sign(file: &Path, keys: &[PathBuf], out: &Path) -> Result<String, CommandError> {
    let keys = keys
        .iter()
        .map(|file| key::load_secret(file))
        .collect::<Result<Vec<SecretKey>, _>>()?;
    let link = trust::read(file, ROOT_LINK_SIZE_MAX, "draft")?;
    let signed = sign_link(&link, &keys.iter().collect::<Vec<_>>())
        .map_err(|error| unsigned(file, &error))?;
    write(out, &signed)?;
    let (root, signers) = unverified_link(&signed).map_err(|error| refused(out, &error))?;
    let text = report::root(&out.display().to_string(), &root);
    Ok(format!("{text}{}", report::signers(&signers)))
}

fn merge(files: &[PathBuf], out: &Path) -> Result<String, CommandError> {
    let links = files
        .iter()
        .map(|file| trust::read(file, ROOT_LINK_SIZE_MAX, "draft"))
        .collect::<Result<Vec<_>, _>>()?;
    let merged = merge_links(&links).map_err(|error| CommandError::failed(error.to_string()))?;
    write(out, &merged)?;
    let (root, signers) = unverified_link(&merged).map_err(|error| refused(out, &error))?;
    let text = report::root(&out.display().to_string(), &root);
    Ok(format!("{text}{}", report::signers(&signers)))
}

fn append(file: &Path, trust_root: &Path, chain: &Path) -> Result<String, CommandError> {
    let start = trust::load_root(trust_root)?;
    let link = trust::read(file, ROOT_LINK_SIZE_MAX, "next trust root")?;
    let old = match chain.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        _ => Some(trust::read(chain, ROOT_CHAIN_SIZE_MAX, "root chain")?),
    };
    let (bytes, newest) =
        append_link(old.as_deref(), &link, &start).map_err(|error| {
            refused(file, &error).hint("a link needs the root keys before it and its own: `plasmd root sign`, then `plasmd root merge`")
        })?;
    write(chain, &bytes)?;
    let text = report::root(&chain.display().to_string(), &newest);
    Ok(format!(
        "{text}next        put it beside every manifest as roots.json, and sign the manifests with --generation {}\n",
        newest.generation()
    ))
}

fn show(file: &Path, trust_root: Option<&Path>, json: bool) -> Result<String, CommandError> {
    let start = trust_root.map(trust::load_root).transpose()?;
    let bytes = trust::read(file, ROOT_CHAIN_SIZE_MAX, "trust root")?;
    let name = file.display().to_string();
    if let Ok((root, signers)) = unverified_link(&bytes) {
        if let Some(start) = &start {
            verify_link(&bytes, start).map_err(|error| refused(file, &error))?;
        }
        let shown = report::Shown::Link(&signers, start.is_some());
        return Ok(report::shown(&name, &root, &shown, json));
    }
    if bytes.len() <= TRUST_ROOT_SIZE_MAX
        && let Ok(root) = TrustRoot::parse(&bytes)
    {
        return Ok(report::shown(&name, &root, &report::Shown::Root, json));
    }
    let Some(start) = start else {
        let problem = format!("{name}: this is neither a trust root nor a draft of one");
        return Err(CommandError::failed(problem)
            .hint("to look at a chain, name the root it begins with: --trust-root FILE"));
    };
    let root = walk_roots(&bytes, &start).map_err(|error| refused(file, &error))?;
    let steps = root.generation() - start.generation();
    Ok(report::shown(
        &name,
        &root,
        &report::Shown::Chain(steps),
        json,
    ))
}

fn write(out: &Path, bytes: &[u8]) -> Result<(), CommandError> {
    files::write_atomic(out, bytes).map_err(|error| key::unwritable(out, &error))
}

fn refused(file: &Path, error: &dyn std::error::Error) -> CommandError {
    CommandError::failed(format!("{}: {error}", file.display()))
}

fn unsigned(file: &Path, error: &SignError) -> CommandError {
    let failed = refused(file, error);
    match error {
        SignError::RefusedStatement(_) => {
            failed.hint("a draft of the next root is made by `plasmd root rotate`")
        }
        _ => failed,
    }
}
