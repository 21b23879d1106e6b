use std::os::unix::net::UnixListener as StdUnixListener;

use qm_wire::local::{Accepted, ClientHello, Put, Refused};
use qm_wire::{ClientId, Incarnation, MessageId, Outcome};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

const WINDOW: Window = Window {
    messages: 4,
    bytes: 1 << 20,
    frame_bytes_max: 1 << 20,
};

struct Served {
    _dir: TempDir,
    path: PathBuf,
    events: mpsc::Receiver<LocalEvent>,
}

fn serve(limits: LocalLimits) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run").join("node.sock");
    let socket = LocalSocket::bind(&path, limits.mode).unwrap();
    let (tell, events) = channel();
    tokio::spawn(async move {
        socket
            .serve(limits, WINDOW, Arc::new(AtomicU64::new(1)), tell)
            .await;
    });
    Served {
        _dir: dir,
        path,
        events,
    }
}

fn hello() -> BytesMut {
    let mut bytes = BytesMut::new();
    let hello = ClientHello {
        protocol: 1,
        client: ClientId([1; 16]),
        program: "test".into(),
    };
    ClientFrame::Hello(hello).encode(&mut bytes);
    bytes
}

fn put(sequence: u64, body_bytes: usize) -> BytesMut {
    let mut bytes = BytesMut::new();
    ClientFrame::Put(Put::new(sequence, "q", vec![7; body_bytes].into())).encode(&mut bytes);
    bytes
}

async fn opened(served: &mut Served) -> Arc<Conn> {
    match served.events.recv().await {
        Some(LocalEvent::Opened(conn)) => conn,
        other => panic!("{other:?}"),
    }
}

async fn frames(served: &mut Served) -> Vec<ClientFrame> {
    match served.events.recv().await {
        Some(LocalEvent::Frames { frames, .. }) => frames,
        other => panic!("{other:?}"),
    }
}

async fn reads_to_end(mut client: UnixStream) -> Vec<u8> {
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    rest
}

#[tokio::test]
async fn frames_come_whole_and_in_order_however_they_were_written() {
    let mut served = serve(LocalLimits::default());
    let mut client = UnixStream::connect(&served.path).await.unwrap();
    let mut bytes = hello();
    bytes.extend_from_slice(&put(1, 3));
    bytes.extend_from_slice(&put(2, 300_000));
    let writing = tokio::spawn(async move {
        let (small, rest) = bytes.split_at(100);
        for byte in small {
            client.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        client.write_all(rest).await.unwrap();
        client
    });
    let conn = opened(&mut served).await;
    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.extend(frames(&mut served).await);
    }
    assert!(matches!(seen[0], ClientFrame::Hello(_)));
    assert!(matches!(&seen[1], ClientFrame::Put(put) if put.sequence == 1));
    assert!(matches!(&seen[2], ClientFrame::Put(put) if put.body.len() == 300_000));

    let refused = Refused {
        sequence: 1,
        outcome: Outcome::BUSY,
        text: "later".into(),
    };
    assert!(conn.push(&NodeFrame::Refused(refused.clone())));
    conn.flush();
    let mut client = writing.await.unwrap();
    let mut answer = BytesMut::new();
    client.read_buf(&mut answer).await.unwrap();
    let mut answer = answer.freeze();
    assert_eq!(
        NodeFrame::next(&mut answer, 1 << 20),
        Ok(Some(NodeFrame::Refused(refused)))
    );
    drop(client);
    assert!(matches!(
        served.events.recv().await,
        Some(LocalEvent::Closed { .. })
    ));
}

#[tokio::test]
async fn garbage_costs_the_connection_and_nothing_else() {
    let mut served = serve(LocalLimits::default());
    let mut huge = hello();
    let mut announced = put(1, 10);
    announced[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    huge.extend_from_slice(&announced);
    let mut damaged = hello();
    let at = damaged.len();
    damaged.extend_from_slice(&put(1, 10));
    damaged[at + 20] ^= 1;
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &put(1, 1), &huge, &damaged] {
        let mut client = UnixStream::connect(&served.path).await.unwrap();
        client.write_all(garbage).await.unwrap();
        assert_eq!(reads_to_end(client).await, b"");
    }
    // Only the one whose hello was whole is told of, and that it went.
    opened(&mut served).await;
    assert_eq!(frames(&mut served).await.len(), 1);
    assert!(matches!(
        served.events.recv().await,
        Some(LocalEvent::Closed { .. })
    ));
    let mut client = UnixStream::connect(&served.path).await.unwrap();
    client.write_all(&hello()).await.unwrap();
    opened(&mut served).await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_closed() {
    let served = serve(LocalLimits::default());
    let client = UnixStream::connect(&served.path).await.unwrap();
    let began = tokio::time::Instant::now();
    assert_eq!(reads_to_end(client).await, b"");
    assert!(began.elapsed() >= Duration::from_secs(10));
}

#[tokio::test]
async fn reading_pauses_while_the_window_is_unanswered() {
    let mut served = serve(LocalLimits::default());
    let mut client = UnixStream::connect(&served.path).await.unwrap();
    client.write_all(&hello()).await.unwrap();
    let conn = opened(&mut served).await;
    frames(&mut served).await;
    let mut read = 0;
    for sequence in 1..=WINDOW.messages as u64 {
        client.write_all(&put(sequence, 1)).await.unwrap();
        read += frames(&mut served).await.len();
    }
    assert_eq!(read, WINDOW.messages);
    client.write_all(&put(5, 1)).await.unwrap();
    let early = timeout(Duration::from_millis(50), served.events.recv()).await;
    assert!(early.is_err(), "{early:?}");
    let first_id = MessageId {
        incarnation: Incarnation(1),
        sequence: 1,
    };
    let accepted = Accepted {
        first_sequence: 1,
        count: 1,
        first_id,
        repeated: false,
    };
    assert!(conn.push(&NodeFrame::Accepted(accepted)));
    assert_eq!(frames(&mut served).await.len(), 1);
}

#[tokio::test]
async fn an_application_that_reads_nothing_is_noticed_and_the_rest_is_written_when_it_reads() {
    let limits = LocalLimits {
        unread_bytes_max: 1 << 20,
        ..LocalLimits::default()
    };
    let mut served = serve(limits);
    let mut client = UnixStream::connect(&served.path).await.unwrap();
    client.write_all(&hello()).await.unwrap();
    let conn = opened(&mut served).await;
    let json = Bytes::from(vec![b' '; 200_000]);
    let reply = |request| {
        NodeFrame::AdminReply(qm_wire::local::AdminReply {
            request,
            ok: true,
            json: json.clone(),
        })
    };
    let mut taken = 0;
    while conn.push(&reply(taken)) {
        conn.flush();
        taken += 1;
        assert!(taken < 100, "nothing holds it back");
    }
    assert!(taken >= 5);
    conn.close();
    let mut rest = Bytes::from(reads_to_end(client).await);
    for request in 0..taken {
        assert_eq!(
            NodeFrame::next(&mut rest, 1 << 20),
            Ok(Some(reply(request)))
        );
    }
    assert_eq!(NodeFrame::next(&mut rest, 1 << 20), Ok(None));
}

#[tokio::test]
async fn all_connections_together_may_leave_only_so_much_unread() {
    let limits = LocalLimits {
        unread_bytes_total_max: 10 << 20,
        ..LocalLimits::default()
    };
    let mut served = serve(limits);
    let json = Bytes::from(vec![b' '; 200_000]);
    let mut clients = Vec::new();
    let mut conns = Vec::new();
    for _ in 0..3 {
        let mut client = UnixStream::connect(&served.path).await.unwrap();
        client.write_all(&hello()).await.unwrap();
        conns.push(opened(&mut served).await);
        frames(&mut served).await;
        clients.push(client);
    }
    let reply = |request| {
        NodeFrame::AdminReply(qm_wire::local::AdminReply {
            request,
            ok: true,
            json: json.clone(),
        })
    };
    // Two that read nothing fill what all may leave; whoever goes on is to be closed.
    let mut pushed = 0;
    while conns[0].push(&reply(pushed)) && conns[1].push(&reply(pushed)) {
        pushed += 1;
        assert!(pushed < 1_000, "nothing holds them back");
    }
    assert!((20..40).contains(&pushed), "{pushed}");
    // One that has nothing unread is served as ever, and room comes back with those that go.
    assert!(conns[2].push(&reply(1)));
    let (first, second) = (conns.remove(0), conns.remove(0));
    first.close();
    second.close();
    drop((first, second));
    clients.truncate(0);
    for _ in 0..2 {
        assert!(matches!(
            served.events.recv().await,
            Some(LocalEvent::Closed { .. })
        ));
    }
    for request in 0..20 {
        assert!(conns[0].push(&reply(request)));
    }
}

#[tokio::test]
async fn connections_are_limited() {
    let limits = LocalLimits {
        connections: 1,
        ..LocalLimits::default()
    };
    let mut served = serve(limits);
    let mut first = UnixStream::connect(&served.path).await.unwrap();
    first.write_all(&hello()).await.unwrap();
    opened(&mut served).await;
    let second = UnixStream::connect(&served.path).await.unwrap();
    assert_eq!(reads_to_end(second).await, b"");
    drop(first);
    frames(&mut served).await;
    assert!(matches!(
        served.events.recv().await,
        Some(LocalEvent::Closed { .. })
    ));
    let mut third = UnixStream::connect(&served.path).await.unwrap();
    third.write_all(&hello()).await.unwrap();
    opened(&mut served).await;
}

#[tokio::test]
async fn the_path_belongs_to_one_node_and_is_left_clean() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.sock");
    let socket = LocalSocket::bind(&path, 0o600).unwrap();
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(matches!(
        LocalSocket::bind(&path, 0o600),
        Err(LocalError::InUse { .. })
    ));
    drop(socket);
    assert!(!path.exists());

    // What a killed process leaves.
    drop(StdUnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let socket = LocalSocket::bind(&path, 0o600).unwrap();
    // Somebody else's file stays.
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"precious").unwrap();
    drop(socket);
    assert!(matches!(
        LocalSocket::bind(&path, 0o600),
        Err(LocalError::NotASocket { .. })
    ));
    assert_eq!(fs::read(&path).unwrap(), b"precious");

    let long = dir.path().join("x".repeat(120));
    let error = LocalSocket::bind(&long, 0o600).unwrap_err();
    assert!(matches!(error, LocalError::PathTooLong { .. }));
    assert!(error.to_string().contains("xxx"), "{error}");
}
