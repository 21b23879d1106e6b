//! What is larger than anything that a connection is given at once.

use super::*;

const BODY_BYTES: usize = 80 << 20;

/// Accepted, delivered to another node and received there: whatever may be sent can also be had.
#[test]
fn a_body_above_what_a_connection_may_leave_unread_arrives_all_the_same() {
    let [dir, other] = [(), ()].map(|()| tempfile::tempdir().unwrap());
    let [node, peer] = [&dir, &other].map(|dir| {
        let mut config = NodeConfig::new(dir.path().join("node"));
        config.listen = SocketAddr::from(([127, 0, 0, 1], 0));
        config.engine.trust = Trust::Any;
        config.engine.body_bytes_max = u32::try_from(BODY_BYTES).unwrap();
        config.store.segment_bytes = 1 << 20;
        config.store.reserve_bytes = 1 << 20;
        crate::run::Node::start(config).unwrap()
    });
    let [here, there] = [&node, &peer].map(|node| Client::connect(node.socket()).unwrap());
    create_queue(&there);
    let address = peer.listen();
    let add = format!(r#"{{"do":"peers.add","name":"b","address":"{address}"}}"#);
    here.admin(add).unwrap();
    here.send(Message::new("b/q", vec![7; BODY_BYTES])).unwrap();
    let options = ReceiveOptions::new().wait(Duration::from_secs(60));
    let delivery = there.receive(&"q".parse().unwrap(), &options).unwrap();
    let delivery = delivery.expect("it is delivered and handed out");
    assert_eq!(delivery.body().len(), BODY_BYTES);
    assert!(delivery.body().iter().all(|byte| *byte == 7));
    there.wait(delivery.consume()).unwrap();
    for client in [here, there] {
        client.close();
    }
    for node in [node, peer] {
        node.shutdown().unwrap();
    }
}
