//! By what the operating system knows this machine.

use std::fs::File;
use std::io::Read as _;

use qm_engine::Seal;
use qm_transport::NodeKey;

/// Sources and their files. The first can be read by root only and is constant or missing on some
/// hosts; the second is cloud-init's; images that were not prepared share the third.
const SOURCES: [(&str, &str); 3] = [
    ("product-uuid", "/sys/class/dmi/id/product_uuid"),
    ("instance-id", "/var/lib/cloud/data/instance-id"),
    ("machine-id", "/etc/machine-id"),
];
/// Such an id has some 36 bytes.
const ID_BYTES_MAX: u64 = 256;

/// What can be read now, under the node's key.
pub(crate) fn read(key: &NodeKey) -> Vec<Seal> {
    let read = |(source, path): (&'static str, &str)| {
        let mut id = Vec::new();
        let file = File::open(path).ok()?;
        file.take(ID_BYTES_MAX).read_to_end(&mut id).ok()?;
        let id = id.trim_ascii();
        (!id.is_empty()).then(|| Seal {
            source,
            value: key.derive(&[b"qm-seal ", source.as_bytes(), b" ", id].concat()),
        })
    };
    SOURCES.into_iter().filter_map(read).collect()
}
