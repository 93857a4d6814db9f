//! How to get into a lab that is kept, and how to end it.

use super::{Keeper, Lab, LabError};
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Leaves the client's identity in the lab's directory, lets the keeper stay, and says what to type.
pub(super) async fn hand_over(lab: &Lab, keeper: Keeper) -> Result<String, LabError> {
    let identity = &lab.client_identity;
    write_secret(&keeper.dir.join("ca.pem"), identity.ca_pem.as_bytes())?;
    write_secret(&keeper.dir.join("client.pem"), identity.certificate_pem.as_bytes())?;
    write_secret(&keeper.dir.join("client.key"), identity.key_pem.expose().as_bytes())?;
    let dir = keeper.keep().await?;
    Ok(in_words(lab, &dir))
}

fn in_words(lab: &Lab, dir: &Path) -> String {
    let mut text = String::from("The lab is kept. Each node's agent answers on loopback:\n\n");
    for (name, node) in lab.nodes() {
        let (address, room) =
            (node.address, node.plan.zone.map_or("witness".to_owned(), |zone| format!("room {}", zone + 1)));
        writeln!(text, "    {name:<16} {room:<8} https://{name}:{}", address.port()).ok();
    }
    let dir = dir.display();
    writeln!(text, "\nAsk one of them:\n").ok();
    writeln!(text, "    curl --cacert {dir}/ca.pem --cert {dir}/client.pem --key {dir}/client.key \\").ok();
    if let Some((name, node)) = lab.nodes().iter().next() {
        let port = node.address.port();
        writeln!(text, "         --resolve {name}:{port}:127.0.0.1 https://{name}:{port}/v1/health").ok();
    }
    writeln!(text, "\nEnd the lab:\n\n    cargo xtask hil end {dir}").ok();
    text
}

fn write_secret(path: &Path, content: &[u8]) -> Result<(), LabError> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(content));
    written.map_err(|source| LabError::Write { path: path.to_owned(), source })
}
