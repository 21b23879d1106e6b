//! Connecting, and what is said when that fails.

use qm_client::{Client, ClientError};

use crate::support::Node;

#[tokio::test]
async fn a_missing_node_is_named_with_the_command_that_starts_one() {
    let mut node = Node::new();
    node.stop();
    let error = Client::connect(node.path()).await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }));
    let text = error.to_string();
    assert!(
        text.contains("node.sock") && text.contains("`qm-node run`"),
        "{text}"
    );
}
