// SPDX-License-Identifier: Apache-2.0
//! `cvmm measure`.

use std::fs;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use cvmm_igvm::ExportError;
use cvmm_launch::blob::Blob;
use cvmm_launch::id_block::{IdError, Identity, KeyError, SigningKey};
use cvmm_launch::kernel::Program;
use cvmm_launch::plan::Profile;
use cvmm_launch::vmsa::VcpuModel;
use cvmm_measure::pcrs::{BootChain, PcrError, SecureBoot, predict, show};
use cvmm_measure::{Id, Listing, MeasureError, Options, Subject, compare, explain, firmware_digest};
use cvmm_output::{Existing, OutputError};
use cvmm_secure_boot::Keys;
use cvmm_snp::digest::Digest;
use cvmm_snp::id::IdBlock;
use cvmm_snp::policy::GuestPolicy;
use thiserror::Error;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;
use zeroize::Zeroizing;

use super::measure_args::{MeasureArgs, Mode, OutputFormat};
use super::session::Session;
use crate::config::{Config, ConfigError};
use crate::exit_code::ExitStatus;
use crate::inputs::{InputError, Inputs};

/// Largest saved plan that is read, in bytes: one with every page of a large guest has some ten.
const MAX_SAVED: u64 = 64 << 20;
/// Largest private key that is read, in bytes.
const MAX_KEY: u64 = 64 << 10;

/// Why a file beside the guest cannot be used.
#[derive(Debug, Error)]
enum FileError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is not a plan saved by `cvmm measure --json`: {source}")]
    Saved { path: PathBuf, source: serde_json::Error },
    #[error("{path} {source}")]
    Key { path: PathBuf, source: KeyError },
}

/// Why a measurement did not come about.
#[derive(Debug, Error)]
enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Measure(#[from] MeasureError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Id(#[from] IdError),
    #[error("cannot write the IGVM file {path}: {source}")]
    Export { path: PathBuf, source: ExportError },
    #[error(transparent)]
    Pcrs(#[from] PcrError),
    #[error(transparent)]
    Output(#[from] OutputError),
}

impl Session<'_> {
    pub(super) fn measure(&mut self, args: &MeasureArgs) -> ExitStatus {
        let done = match &args.diff {
            Some(files) => self.diff(args, files),
            None if args.pcrs => self.pcrs(args),
            None => self.predict(args),
        };
        match done {
            Ok(status) => status,
            Err(Failure::Config(error)) => self.config_error(&error),
            Err(
                error @ Failure::Usage(_)
                | error @ Failure::Export { source: ExportError::Policy { .. }, .. },
            ) => self.ended(ExitStatus::Usage, &error),
            Err(Failure::Output(error)) => self.not_written(&error),
            Err(Failure::Input(error)) => self.failed(&error),
            Err(Failure::Measure(error)) => self.failed(&error),
            Err(error @ Failure::Export { .. }) => self.ended(ExitStatus::LaunchRefused, &error),
            Err(Failure::File(error)) => self.ended(ExitStatus::File, &error),
            Err(Failure::Pcrs(error)) => self.ended(ExitStatus::File, &error),
            Err(Failure::Id(error)) => self.ended(ExitStatus::Internal, &error),
        }
    }

    fn predict(&mut self, args: &MeasureArgs) -> Result<ExitStatus, Failure> {
        if args.mode == Mode::OvmfHash {
            let Some(path) = &args.ovmf else {
                return Err(Failure::Usage("--mode snp:ovmf-hash needs --ovmf".to_owned()));
            };
            return Ok(self.print(format!("{}\n", digest_text(args, firmware_digest(path)?)).as_bytes()));
        }
        let model = model(args)?;
        let Target { subject, policy, owned, keys } = subject(args)?;
        let mut listing =
            (args.explain || args.json).then(|| subject.listing(model, args.pages)).transpose()?;
        let digest = match &listing {
            Some(listing) => listing.launch_digest,
            None => subject.digest(model)?,
        };
        if let Some(path) = &args.write_firmware {
            put(args, path, &subject.launched_firmware()?)?;
        }
        if let Some(path) = &args.write_keys {
            let keys = keys.ok_or_else(|| {
                Failure::Usage("--write-keys needs a --config with [secure_boot]".to_owned())
            })?;
            put(args, path, &keys.to_bytes())?;
        }
        let identity = args.id_block.is_some().then(|| identity(args, digest)).transpose()?;
        if let Some(identity) = &identity {
            // Nothing is written that the firmware would refuse.
            identity.verify()?;
            let files =
                [(&args.id_block, identity.block().as_bytes()), (&args.id_auth, identity.auth().as_bytes())];
            for (path, bytes) in files {
                let Some(path) = path else { continue };
                put(args, path, bytes)?;
            }
        }
        if let Some(path) = &args.write_igvm {
            // The block of the guest's owner, who knows the digest: another processor gives another one.
            if let (None, Some(owned)) = (&identity, &owned) {
                owned.check_launch(digest, policy).map_err(InputError::Identity)?;
            }
            let identity = identity.as_ref().or(owned.as_ref());
            let file = cvmm_output::create(path, 0o644, Existing::Refuse.or_forced(args.force))?;
            let mut file = BufWriter::new(file);
            let written = subject.write_igvm(model, policy, identity, &mut file);
            let written = written.and_then(|()| Ok(file.flush()?));
            if let Err(source) = written {
                // An empty file can be written again. If that fails too, the first error is the cause.
                let _ = file.get_ref().set_len(0);
                return Err(Failure::Export { path: path.clone(), source });
            }
        }
        let mut text = match &mut listing {
            Some(listing) if args.json => {
                listing.id = identity.as_ref().map(|identity| Id {
                    policy: args.policy.0,
                    id_key_digest: identity.id_key_digest(),
                    author_key_digest: identity.author_key_digest().map(|digest| digest.to_string()),
                });
                // Strings and numbers are always JSON.
                let json = serde_json::to_string_pretty(listing).unwrap_or_default();
                return Ok(self.print(format!("{json}\n").as_bytes()));
            }
            Some(listing) => explain(listing).to_string(),
            None => format!("{}\n", digest_text(args, digest)),
        };
        if let Some(identity) = &identity {
            text += &format!("id key digest      {}\n", digest_text(args, identity.id_key_digest()));
            if let Some(author) = identity.author_key_digest() {
                text += &format!("author key digest  {}\n", digest_text(args, author));
            }
        }
        Ok(self.print(text.as_bytes()))
    }

    fn pcrs(&mut self, args: &MeasureArgs) -> Result<ExitStatus, Failure> {
        let Some(path) = &args.config else {
            return Err(Failure::Usage("--pcrs needs --config".to_owned()));
        };
        let inputs = Inputs::open(&Config::load(path)?)?;
        let loader = match (&inputs.profile, &args.loader) {
            (Some(Profile::Uki { image, .. }), None) => image.blob().clone(),
            (Some(Profile::Disk), Some(path)) => {
                Blob::open(path).map_err(|source| FileError::Read { path: path.clone(), source })?
            }
            (Some(Profile::Disk), None) => {
                let text =
                    "profile disk: --loader must name the program that the firmware will find on the disk";
                return Err(Failure::Usage(text.to_owned()));
            }
            (profile, _) => {
                let text = format!(
                    "--pcrs predicts profile uki, and disk with --loader; this is profile {}",
                    profile.as_ref().map_or("igvm", Profile::name)
                );
                return Err(Failure::Usage(text));
            }
        };
        let Some(firmware) = &inputs.firmware else {
            return Err(Failure::Usage("--pcrs needs a firmware image".to_owned()));
        };
        let chain = BootChain {
            firmware,
            secure_boot: SecureBoot::of(firmware, &inputs.plan).map_err(PcrError::from)?,
            loader: Program::open(loader).map_err(PcrError::from)?,
            from_disk: matches!(inputs.profile, Some(Profile::Disk)),
        };
        let prediction = predict(&chain)?;
        let text = if args.json {
            // Strings and numbers are always JSON.
            format!("{}\n", serde_json::to_string_pretty(&prediction).unwrap_or_default())
        } else {
            show(&prediction).to_string()
        };
        Ok(self.print(text.as_bytes()))
    }

    fn diff(&mut self, args: &MeasureArgs, files: &[PathBuf]) -> Result<ExitStatus, Failure> {
        let [a, b] = files else { return Err(Failure::Usage("--diff takes two files".to_owned())) };
        let (a, b) = (plan(args, a)?, plan(args, b)?);
        let differences = compare(&a, &b);
        let text = if args.json {
            let report = serde_json::json!({
                "equal": differences.is_empty(),
                "differences": differences,
            });
            format!("{report:#}\n")
        } else if differences.is_empty() {
            format!("no difference: both have the launch digest {}\n", a.launch_digest)
        } else {
            differences.iter().map(|line| format!("{line}\n")).collect()
        };
        let printed = self.print(text.as_bytes());
        Ok(match printed {
            ExitStatus::Success if !differences.is_empty() => ExitStatus::Differs,
            other => other,
        })
    }
}

fn model(args: &MeasureArgs) -> Result<VcpuModel, Failure> {
    let signature = args.signature().map_err(Failure::Usage)?;
    Ok(VcpuModel { signature, features: args.guest_features })
}

/// A guest whose digest is asked for.
struct Target {
    subject: Subject,
    /// Policy of its launch.
    policy: GuestPolicy,
    /// The ID block that its vm.toml names.
    owned: Option<Identity>,
    /// Its Secure Boot keys.
    keys: Option<Keys>,
}

fn subject(args: &MeasureArgs) -> Result<Target, Failure> {
    let (mut policy, mut owned, mut keys) = (args.policy, None, None);
    let mut subject = match (&args.config, &args.ovmf) {
        (Some(path), _) => {
            let config = Config::load(path)?;
            let inputs = Inputs::open(&config)?;
            policy = GuestPolicy(config.snp.policy);
            owned.clone_from(&inputs.identity);
            keys.clone_from(&inputs.measured.keys);
            inputs.into_subject()
        }
        (None, Some(ovmf)) => Subject::from_options(&Options {
            ovmf: ovmf.clone(),
            kernel: args.kernel.clone(),
            initrd: args.initrd.clone(),
            append: args.append.clone().unwrap_or_default(),
            vcpus: args
                .vcpus
                .ok_or_else(|| Failure::Usage("--ovmf needs --vcpus: each vcpu is measured".to_owned()))?,
        })?,
        (None, None) => return Err(Failure::Usage("--config or --ovmf is required".to_owned())),
    };
    if let Some(digest) = args.snp_ovmf_hash {
        subject.set_firmware_digest(digest);
    }
    Ok(Target { subject, policy, owned, keys })
}

/// A saved plan, or that of a `vm.toml`.
fn plan(args: &MeasureArgs, path: &Path) -> Result<Listing, Failure> {
    let text = read(path, MAX_SAVED)?;
    if text.trim_ascii_start().first() == Some(&b'{') {
        return Ok(
            Listing::from_json(&text).map_err(|source| FileError::Saved { path: path.to_owned(), source })?
        );
    }
    Ok(Inputs::open(&Config::load(path)?)?.into_subject().listing(model(args)?, true)?)
}

fn identity(args: &MeasureArgs, digest: Digest) -> Result<Identity, Failure> {
    let mut block = IdBlock::new(digest, args.policy);
    block.family_id = args.family_id.unwrap_or_default();
    block.image_id = args.image_id.unwrap_or_default();
    block.guest_svn = U32::new(args.guest_svn);
    let key = |path: &Path| {
        let text = Zeroizing::new(read(path, MAX_KEY)?);
        SigningKey::parse(&text).map_err(|source| FileError::Key { path: path.to_owned(), source })
    };
    let author = args.author_key.as_deref().map(key).transpose()?;
    Ok(match args.id_key.as_deref().map(key).transpose()? {
        Some(id) => Identity::signed(block, &id, author.as_ref())?,
        None => Identity::keyless(block)?,
    })
}

fn read(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let failed = |source| FileError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let opened = fs::File::open(path).map_err(failed)?;
    opened.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(failed(io::Error::other(format!("longer than the {limit} bytes allowed"))));
    }
    Ok(bytes)
}

/// Writes a file that the user has named; one that exists only with `--force`.
fn put(args: &MeasureArgs, path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    Ok(cvmm_output::write(path, bytes, 0o644, Existing::Refuse.or_forced(args.force))?)
}

fn digest_text(args: &MeasureArgs, digest: Digest) -> String {
    match args.output_format {
        OutputFormat::Hex => digest.to_string(),
        OutputFormat::Base64 => base64(&digest.0),
    }
}

/// Base64 of a multiple of three bytes, which needs no padding.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (groups, _) = bytes.as_chunks::<3>();
    let digits = groups.iter().flat_map(|[a, b, c]| {
        let group = u32::from(*a) << 16 | u32::from(*b) << 8 | u32::from(*c);
        [18, 12, 6, 0].map(|shift| char::from(ALPHABET[(group >> shift & 63) as usize]))
    });
    digits.collect()
}
