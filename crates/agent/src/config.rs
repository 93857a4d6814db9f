//! Reading the node's configuration.
//!
//! On failure: [`LoadError`] names the file and the place. What stands there is never quoted: it may be the key.

use api::{ConfigError, NodeConfig};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Configurations are some kilobytes: two certificates, a key and a few names.
const MAX_BYTES: u64 = 256 << 10;

/// A configuration that can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    /// The file can't be read.
    #[error("can't read the configuration {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file is not a configuration.
    #[error("{}:{line}:{column}: {reason}", path.display())]
    Parse { path: PathBuf, line: usize, column: usize, reason: String },
    /// The file contradicts itself.
    #[error("the configuration {} contradicts itself", path.display())]
    Check {
        path: PathBuf,
        #[source]
        source: ConfigError,
    },
}

/// Reads and checks the configuration in `path`.
pub(crate) fn load(path: &Path) -> Result<NodeConfig, LoadError> {
    let mut text = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_BYTES).read_to_end(&mut text))
        .map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    let config: NodeConfig = serde_json::from_slice(&text).map_err(|error| LoadError::Parse {
        path: path.to_owned(),
        line: error.line(),
        column: error.column(),
        reason: without_values(&error),
    })?;
    config.check().map_err(|source| LoadError::Check { path: path.to_owned(), source })?;
    Ok(config)
}

/// serde quotes a value that has the wrong type. Field names alone are safe to repeat.
fn without_values(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if error.is_syntax() {
        "not valid JSON".to_owned()
    } else if error.is_eof() {
        "the file ends too early".to_owned()
    } else if text.starts_with("unknown field") || text.starts_with("missing field") {
        text.split(" at line").next().unwrap_or_default().to_owned()
    } else {
        "a value of the wrong type or form".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        let error = load(file.path()).unwrap_err().to_string();
        error.replace(&file.path().display().to_string(), "FILE")
    }

    #[test]
    fn refusals_name_the_place_and_never_a_value() {
        assert_eq!(
            refusal("{\"nude\": 1}"),
            "FILE:1:7: unknown field `nude`, expected one of `node`, `role`, `listen`, `out_of_band`, `adapters`, `tls`"
        );
        assert_eq!(refusal("{"), "FILE:1:1: the file ends too early");
        assert_eq!(refusal("{]"), "FILE:1:2: not valid JSON");
        assert_eq!(refusal("{\"tls\": \"SECRET\"}"), "FILE:1:16: a value of the wrong type or form");
        let missing = load(Path::new("/nonexistent")).unwrap_err();
        assert_eq!(missing.to_string(), "can't read the configuration /nonexistent");
    }
}
