// SPDX-License-Identifier: Apache-2.0
//! `cvmm-gate keys`.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use clap::{Args, Subcommand};
use cvmm_gate::config::Config;
use cvmm_gate::keys::{Keys, generate, pkcs11, public_path};
use cvmm_gate::rcar::token::{self, TokenKey};
use cvmm_launch::id_block::Identity;
use cvmm_snp::digest::Digest;
use cvmm_snp::id::IdBlock;
use cvmm_snp::policy::GuestPolicy;
use serde_json::json;

use super::{ExitStatus, owner, print, print_json};

#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Print the public keys of the gate
    ///
    /// vm.toml pins the verdict key; reports contain the digests of the ID key and the author key.
    Show(Show),
    /// Generate the keys of [pkcs11] that the token does not have yet and print their labels
    Generate(Generate),
    /// Print the JWK set that RCAR's tokens are verified with; generates the key (rcar.pem) if there is none
    Rcar {
        /// Configuration file
        #[arg(long, short, value_name = "GATE.TOML")]
        config: PathBuf,
    },
    /// Generate a P-384 key and write its public key beside it (.pub); a key is never overwritten
    New {
        /// Key file; readable by this user only
        #[arg(value_name = "KEY.PEM")]
        file: PathBuf,
    },
}

#[derive(Args, Debug)]
pub struct Show {
    /// Configuration file
    #[arg(long, short, value_name = "GATE.TOML")]
    config: PathBuf,
    /// Print only the verdict key in PEM, for `verdict_key` of vm.toml
    #[arg(long, conflicts_with = "json")]
    verdict_pem: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub struct Generate {
    /// Configuration file
    #[arg(long, short, value_name = "GATE.TOML")]
    config: PathBuf,
}

pub fn run(command: KeysCommand) -> Result<ExitStatus> {
    let Show { config, verdict_pem, json } = match command {
        KeysCommand::Show(show) => show,
        KeysCommand::Generate(Generate { config }) => {
            let config = Config::load(&config)?;
            owner::check([&*config.keys])?;
            let settings = config.pkcs11.as_ref().context("gate.toml has no [pkcs11]")?;
            for label in pkcs11::generate(settings)? {
                print(&format!("{label}\n"))?;
            }
            return Ok(ExitStatus::Done);
        }
        KeysCommand::Rcar { config } => {
            let keys = Config::load(&config)?.keys;
            owner::check([&*keys])?;
            let path = keys.join(token::KEY);
            if !path.exists() {
                token::generate(&path)?;
            }
            print_json(&TokenKey::load(&path)?.jwks()?)?;
            return Ok(ExitStatus::Done);
        }
        KeysCommand::New { file } => {
            owner::check([cvmm_gate::files::folder_of(&file)])?;
            generate(&file)?;
            print(&format!("{}\n", public_path(&file).display()))?;
            return Ok(ExitStatus::Done);
        }
    };
    let config = Config::load(&config)?;
    owner::check([&*config.keys])?;
    let keys = Keys::open(&config.keys, config.pkcs11.as_ref())?;
    let pem = keys.verdict.public()?.to_pem();
    if verdict_pem {
        print(&pem)?;
        return Ok(ExitStatus::Done);
    }
    // An identity has the digests, as the security processor computes them.
    let block = IdBlock::new(Digest::ZERO, GuestPolicy::default());
    let identity = Identity::signed(block, &keys.id, keys.author.as_ref())
        .map_err(|error| anyhow!("the ID key cannot sign: {error}"))?;
    let (id, author) = (identity.id_key_digest(), identity.author_key_digest());
    if json {
        print_json(&json!({
            "verdict": { "pem": pem },
            "id": { "digest": id.to_string() },
            "author": author.map(|digest| json!({ "digest": digest.to_string() })),
        }))?;
    } else {
        let author = author.map_or("none".to_owned(), |digest| digest.to_string());
        print(&format!("ID key      {id}\nauthor key  {author}\nverdict key\n{pem}"))?;
    }
    Ok(ExitStatus::Done)
}
