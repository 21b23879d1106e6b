use std::collections::BTreeMap;

use expect_test::expect_file;
use qm_engine::Trust;

use super::*;

fn around(variables: &[(&str, &str)]) -> Surroundings {
    let mut all = BTreeMap::from([("HOME".to_owned(), OsString::from("/home/ann"))]);
    all.extend(
        variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.into())),
    );
    Surroundings {
        variables: all,
        ..Surroundings::default()
    }
}

fn read(text: &str) -> Result<Settings, Vec<ConfigError>> {
    let mut settings = Settings::default_in(&around(&[]));
    let mut errors = settings.read_text(Path::new("/etc/qm/qm-node.toml"), text);
    if errors.is_empty() {
        errors = settings.check(Some(16 << 30));
    }
    if errors.is_empty() {
        Ok(settings)
    } else {
        Err(errors)
    }
}

/// The only mistake.
fn mistake<T: fmt::Debug>(read: Result<T, Vec<ConfigError>>) -> ConfigError {
    let mut errors = read.unwrap_err();
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.remove(0)
}

#[test]
fn values_have_units_and_land_where_they_belong() {
    let settings = read(
        r#"
        listen = ":1900"
        name = "till-17"
        trust = "any"
        [dedup]
        size = 20_000
        purge_interval = "45min"
        [limits]
        body_bytes = "1GiB"
        store_bytes = 1073741824
        [recoverable]
        time_to_reach_queue = "4d"
        [store]
        index_bytes = "4MiB"
        side_file_bytes = "128KiB"
        "#,
    )
    .unwrap();
    assert_eq!(settings.store.index_bytes_max, 4 << 20);
    assert_eq!(settings.store.side_file_bytes, 128 << 10);
    assert_eq!(settings.listen, "[::]:1900".parse().unwrap());
    assert_eq!(settings.name.as_deref(), Some("till-17"));
    assert_eq!(settings.engine.trust, Trust::Any);
    assert_eq!(settings.engine.dedup_capacity, 20_000);
    assert_eq!(settings.engine.dedup_purge_interval_ms, 45 * 60 * 1_000);
    assert_eq!(settings.engine.body_bytes_max, 1 << 30);
    assert_eq!(settings.engine.store_bytes_max, 1 << 30);
    assert_eq!(
        settings.engine.recoverable_reach_queue_ms,
        4 * 24 * 3_600 * 1_000
    );
    assert_eq!(
        settings.origin("dedup.size").to_string(),
        "/etc/qm/qm-node.toml:6"
    );
    assert_eq!(
        settings.origin("dedup.purge_interval").to_string(),
        "/etc/qm/qm-node.toml:7"
    );
    assert_eq!(settings.origin("window.bytes"), &Origin::Default);
}

#[test]
fn a_mistake_is_told_with_file_line_and_what_is_accepted() {
    for (text, cause, fix) in [
        (
            "[dedup]\n\nsise = 1",
            "/etc/qm/qm-node.toml:3:1: there is no key `dedup.sise`",
            "did you mean `dedup.size`?",
        ),
        (
            "[dedup]\ncapacity_of_it = 1",
            "qm-node.toml:2:1: there is no key `dedup.capacity_of_it`",
            "accepted keys: dedup.size, dedup.purge_interval",
        ),
        (
            "\n[dedupe]\nsize = 1",
            "qm-node.toml:2:2: there is no section [dedupe]",
            "did you mean [dedup]?",
        ),
        (
            "[stream]\nsize = 1",
            "qm-node.toml:1:2: there is no section [stream]",
            "accepted sections: limits, store, dedup,",
        ),
        (
            "size = 1",
            "qm-node.toml:1:1: there is no key `size`",
            "did you mean `dedup.size`?",
        ),
        (
            "colour = 1",
            "qm-node.toml:1:1: there is no key `colour`",
            "accepted keys: listen,",
        ),
        (
            "[dedup]\nsize = \"many\"",
            "qm-node.toml:2:8: `dedup.size`: `many` is not a whole number",
            "such as 10000",
        ),
        (
            "[dedup]\nsize = [1]",
            "qm-node.toml:2:8: `dedup.size`: `[1]` has the wrong kind",
            "such as 10000",
        ),
        (
            "[dedup]\npurge_interval = 30",
            "qm-node.toml:2:18: `dedup.purge_interval`: `30` is no duration",
            "\"30s\"",
        ),
        (
            "[session]\nidle = \"infinite\"",
            "must not be infinite",
            "\"30s\"",
        ),
        (
            "[window]\nmessages = 5000",
            "from 1 to 4096",
            "whole number",
        ),
        (
            "[limits]\nbody_bytes = \"2GiB\"",
            "between 1B and 1GiB",
            "4MiB",
        ),
        (
            "trust = \"all\"",
            "`all` is no kind of trust",
            "one of: approve, any",
        ),
        (
            "listen = \"hub:1801\"",
            "`hub:1801` is no address",
            "[::]:1801",
        ),
        ("log = \"info,=,\"", "`log`", "qm_node=debug"),
        ("log = \"inof\"", "`inof` is no level", "qm_node=debug"),
        ("dedup = 1", "there is no key `dedup`", "accepted keys"),
        ("[dedup\nlisten = \":1\"", "qm-node.toml:1:7: ", "TOML"),
        ("[dedup]\nsize = 1 2", "qm-node.toml:2:8: ", "TOML"),
        (
            "log = 1.5",
            "qm-node.toml:1:7: `log`: `1.5` has the wrong kind",
            "qm_node=debug",
        ),
        (
            "listen = \":1\"\nlisten = \":2\"",
            "qm-node.toml:2:1: duplicate key",
            "TOML",
        ),
        (
            "[reconnect]\nmin = \"1min\"",
            "qm-node.toml:2:7: `reconnect.min`: the first pause is longer",
            "reconnect.max",
        ),
        (
            "[session]\nack_wait = \"500ms\"",
            "default: `session.ack_wait_min`: the shortest wait is longer",
            "session.ack_wait",
        ),
        (
            "[client]\noutcome_retention = \"23h\"",
            "qm-node.toml:2:21: `client.outcome_retention`: applications repeat for up to 23h",
            "set client.outcome_retention to 1d at least",
        ),
        (
            "[limits]\nstore_bytes = \"1MiB\"",
            "the largest body, 4MiB, could never be stored: `limits.store_bytes` is 1MiB",
            "raise limits.store_bytes",
        ),
        (
            "[limits]\nexpress_bytes = \"17GiB\"",
            "qm-node.toml:2:17: `limits.express_bytes`: messages may take 17.0 GiB of memory (limits.express_bytes 17.0 GiB, limits.resident_bytes 16.0 MiB, ",
            "more memory",
        ),
        (
            "[dedup]\nsize = 30_000_000\n[limits]\nresident_bytes = \"13GiB\"",
            "`limits.resident_bytes`: messages may take 17.0 GiB of memory",
            "lower them",
        ),
        (
            "[store]\ndisk_bytes = \"64MiB\"",
            "64MiB do not hold the reserve (64MiB) and one file more (",
            "raise store.disk_bytes",
        ),
        (
            "[store]\nside_file_bytes = \"1KiB\"",
            "qm-node.toml:2:19: `store.side_file_bytes`: `1KiB` is not between 64KiB and 64MiB",
            "4MiB",
        ),
        (
            "[store]\nindex_bytes = \"17GiB\"",
            "`store.index_bytes`: messages may take 17.0 GiB of memory",
            "lower them",
        ),
    ] {
        let error = mistake(read(text));
        assert!(error.cause.contains(cause), "{text}: {error:?}");
        assert!(error.fix.contains(fix), "{text}: {error:?}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_sources() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("qm-node.toml");
    let text = "\
        listn = \":1\"\n\
        [dedup]\n\
        size = = 1\n\
        purge_interval = \"30\"  # grüße\n\
        [window]\n\
        messages = 9999\n\
        [nosuch]\n\
        x = 1\n";
    std::fs::write(&file, text).unwrap();
    let around = around(&[
        ("QM_CONFIG", file.to_str().unwrap()),
        ("QM_LISTEN", "hub"),
        ("QM_WINDOW__BYTE", "1"),
    ]);
    let flags = Flags {
        config: None,
        values: vec![("--trust", "trust", "all".to_owned())],
    };
    let errors = Settings::load(&around, &flags).unwrap_err();
    let causes: Vec<String> = errors
        .iter()
        .map(|error| error.cause.replace(dir.path().to_str().unwrap(), ""))
        .collect();
    assert_eq!(
        causes,
        [
            "/qm-node.toml:1:1: there is no key `listn`",
            "/qm-node.toml:3:8: extra `=`, expected nothing",
            "/qm-node.toml:7:2: there is no section [nosuch]",
            "/qm-node.toml:4:18: `dedup.purge_interval`: `30` is no duration: write a number and a unit (ms, s, min, h, d), as in 30s",
            "/qm-node.toml:6:12: `window.messages`: `9999` is not a whole number from 1 to 4096",
            "QM_LISTEN: `listen`: `hub` is no address with a port",
            "the environment variable QM_WINDOW__BYTE names no key: there is no `window.byte`",
            "--trust: `trust`: `all` is no kind of trust",
        ]
    );
    assert_eq!(
        errors[3].excerpt,
        Some(("purge_interval = \"30\"  # grüße".to_owned(), 17))
    );
    assert_eq!(errors[5].excerpt, None);
    assert_eq!(errors[6].fix, "did you mean `window.bytes`?");
}

#[test]
fn a_file_that_is_no_configuration_is_refused_whatever_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("qm-node.toml");
    let flags = Flags {
        config: Some(file.clone()),
        values: vec![],
    };
    let told = |content: &[u8]| {
        std::fs::write(&file, content).unwrap();
        Settings::load(&around(&[]), &flags).unwrap_err()
    };
    assert!(told(b"a\n\xff")[0].cause.ends_with("line 2 is not UTF-8"));
    let large = vec![b'#'; (1 << 20) + 1];
    assert!(told(&large)[0].cause.ends_with("larger than 1048576 bytes"));
    // However much is wrong, people can read what is told.
    assert_eq!(told(&b"x = 1\n".repeat(10_000)).len(), 20);
    assert!(told(&b"[".repeat(1_000_000)).len() <= 20);
    assert!(told(&b"[\n".repeat(500_000)).len() <= 20);
    let keys: String = (0..60_000).map(|n| format!("k{n} = 1\n")).collect();
    assert_eq!(told(keys.as_bytes()).len(), 20);
    let name = format!("{} = 1\n", "x".repeat(1_000_000));
    assert!(told(name.as_bytes())[0].cause.len() < 300);
    let long = [&b"log = ["[..], &b"1,".repeat(10_000), b"]"].concat();
    assert!(told(&long)[0].cause.len() < 300);
}

#[test]
fn later_sources_win() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("qm-node.toml");
    std::fs::write(
        &file,
        "name = \"file\"\n[dedup]\nsize = 1\n[window]\nmessages = 1\n",
    )
    .unwrap();
    let around = around(&[
        ("QM_CONFIG", file.to_str().unwrap()),
        ("QM_DEDUP__SIZE", "2"),
        ("QM_NAME", "environment"),
        ("QM_LOG_FORMAT", "json"),
        ("QM_LOGS", "typo"),
    ]);
    let flags = Flags {
        config: None,
        values: vec![("--name", "name", "flag".to_owned())],
    };
    let settings = Settings::load(&around, &flags).unwrap();
    assert_eq!(settings.name.as_deref(), Some("flag"));
    assert_eq!(settings.origin("name").to_string(), "--name");
    assert_eq!(settings.engine.dedup_capacity, 2);
    assert_eq!(settings.origin("dedup.size").to_string(), "QM_DEDUP__SIZE");
    assert_eq!(settings.engine.window_messages, 1);
    assert_eq!(
        settings.origin("window.messages").to_string(),
        format!("{}:5", file.display())
    );
    assert_eq!(settings.log_format, LogFormat::Json);
    assert_eq!(settings.unknown_variables, ["QM_LOGS"]);
    assert_eq!(settings.node_config().engine.dedup_capacity, 2);
}

#[test]
fn a_wrong_variable_is_refused_by_name() {
    for (name, value, cause) in [
        ("QM_DEDUP__SISE", "1", "QM_DEDUP__SISE names no key"),
        ("QM_DEDUP__SIZE", "x", "QM_DEDUP__SIZE: `dedup.size`"),
        (
            "QM_CONFIG",
            "/nonexistent/qm.toml",
            "/nonexistent/qm.toml cannot be read",
        ),
    ] {
        let error = mistake(Settings::load(&around(&[(name, value)]), &Flags::default()));
        assert!(error.cause.contains(cause), "{error:?}");
    }
}

#[test]
fn this_machine_has_memory_enough_for_the_defaults() {
    let memory = Surroundings::of_process().memory;
    assert!(memory.is_none_or(|bytes| bytes > 1 << 20), "{memory:?}");
    let defaults = Settings::default_in(&around(&[]));
    assert_eq!(defaults.check(Some(128 << 20)), []);
    assert_eq!(defaults.check(Some(64 << 20)).len(), 1);
}

#[test]
fn places_follow_the_user_and_the_data_directory() {
    let places = |around: &Surroundings, flags: &Flags| {
        let settings = Settings::load(around, flags).unwrap();
        (
            settings.data.display().to_string(),
            settings.socket.display().to_string(),
        )
    };
    let none = Flags::default();
    let place = |data: &str, socket: &str| (data.to_owned(), socket.to_owned());
    assert_eq!(
        places(&around(&[]), &none),
        place(
            "/home/ann/.local/state/qm",
            "/home/ann/.local/state/qm/node.sock"
        )
    );
    assert_eq!(
        places(
            &around(&[("XDG_STATE_HOME", "/s"), ("XDG_RUNTIME_DIR", "/run/user/7")]),
            &none
        ),
        place("/s/qm", "/run/user/7/qm/node.sock")
    );
    let data = Flags {
        config: None,
        values: vec![("--data", "data", "/tmp/a".to_owned())],
    };
    assert_eq!(
        places(&around(&[("XDG_RUNTIME_DIR", "/run/user/7")]), &data),
        place("/tmp/a", "/tmp/a/node.sock")
    );
    let root = Surroundings {
        root: true,
        ..around(&[("XDG_RUNTIME_DIR", "/run/user/0")])
    };
    assert_eq!(
        places(&root, &none),
        place("/var/lib/qm", "/run/qm/node.sock")
    );

    assert_eq!(
        places(
            &around(&[("QM_DATA", "/d"), ("XDG_RUNTIME_DIR", "/r")]),
            &none
        ),
        place("/d", "/d/node.sock")
    );
    assert_eq!(
        places(&around(&[("QM_DATA", "/d"), ("QM_SOCKET", "/s")]), &data),
        place("/tmp/a", "/s")
    );

    let long = Flags {
        config: None,
        values: vec![("--data", "data", format!("/{}", "x".repeat(120)))],
    };
    let error = mistake(Settings::load(&around(&[]), &long));
    assert_eq!(error.code, "socket_path_too_long");
    assert!(
        error
            .cause
            .starts_with("--data: the path of the local socket has 131 bytes"),
        "{error:?}"
    );
    assert!(error.fix.contains("--socket"));
}

#[test]
fn every_shown_value_is_read_back() {
    let defaults = Settings::default_in(&around(&[]));
    for key in KEYS {
        let mut settings = defaults.clone();
        let shown = (key.show)(&defaults);
        assert_eq!((key.set)(&mut settings, &shown), Ok(()), "{}", key.name);
        assert_eq!((key.show)(&settings), shown, "{}", key.name);
        assert_eq!(Key::named(key.name).map(|key| key.name), Some(key.name));
    }
}

/// `UPDATE_EXPECT=1 cargo test` writes the file anew after a change of keys.
#[test]
fn the_example_file_holds_every_key_with_its_default() {
    let text = example();
    expect_file!["../../qm-node.example.toml"].assert_eq(&text);
    let live: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let root = Surroundings {
        root: true,
        ..Surroundings::default()
    };
    let mut settings = Settings::default_in(&root);
    assert_eq!(settings.read_text(Path::new("example"), &live), []);
    assert_eq!(settings.origins.len(), KEYS.len());
    let defaults = Settings::default_in(&root);
    for key in KEYS {
        assert_eq!((key.show)(&settings), (key.show)(&defaults), "{}", key.name);
    }
}

/// What `config show` prints can be put into a file.
#[test]
fn values_are_shown_as_toml_writes_them() {
    for value in [
        "plain",
        "a \"b\" \\c",
        "\u{fff8}\u{e000}\u{301}",
        "\u{1}\u{7f}\u{85}\n\t\r",
        "Größe",
    ] {
        let text = format!("name = {}\n", keys::Kind::Text.toml(value));
        let read: toml::Table = text.parse().unwrap();
        assert_eq!(read["name"].as_str(), Some(value), "{text}");
    }
}
