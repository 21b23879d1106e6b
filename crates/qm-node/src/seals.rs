//! By what the operating system knows this machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use bytes::Bytes;
use qm_engine::Seal;
use qm_transport::NodeKey;

/// Sources and their files. The first can be read by root only and is constant or missing on some
/// hosts; the second is cloud-init's; images that were not prepared share the third.
const SOURCES: [(&str, &str); 3] = [
    ("product-uuid", "/sys/class/dmi/id/product_uuid"),
    ("instance-id", "/var/lib/cloud/data/instance-id"),
    ("machine-id", "/etc/machine-id"),
];
/// The sources of this operating system.
pub(crate) fn sources() -> Vec<(&'static str, PathBuf)> {
    let sources = SOURCES.map(|(source, path)| (source, PathBuf::from(path)));
    sources.to_vec()
}

/// Such an id has some 36 bytes.
const ID_BYTES_MAX: u64 = 256;

/// Whether this machine is another one than the one on which the node of this store ran, as far as
/// the sources tell that both times spoke.
pub(crate) fn differ(key: &NodeKey, state: &BTreeMap<Bytes, Bytes>, seals: &[Seal]) -> bool {
    let kept = |seal: &Seal| state.get(&Seal::name(key.qm_id(), seal.source));
    let mut known = seals.iter().filter_map(|seal| Some((seal, kept(seal)?)));
    known.any(|(seal, kept)| *kept != seal.value[..])
}

/// What can be read now, under the node's key.
pub(crate) fn read(key: &NodeKey, sources: &[(&'static str, PathBuf)]) -> Vec<Seal> {
    let read = |(source, path): &(&'static str, PathBuf)| {
        let mut id = Vec::new();
        let file = File::open(path).ok()?;
        file.take(ID_BYTES_MAX).read_to_end(&mut id).ok()?;
        let id = id.trim_ascii();
        (!id.is_empty()).then(|| Seal {
            source,
            value: key.derive(&[b"qm-seal ", source.as_bytes(), b" ", id].concat()),
        })
    };
    sources.iter().filter_map(read).collect()
}
