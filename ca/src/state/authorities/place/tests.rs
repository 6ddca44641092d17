use serde_json::json;

use super::*;

fn read(text: &str) -> Result<KeyPlace, serde_json::Error> {
    serde_json::from_str(text).map(|Form(place)| place)
}

#[test]
fn every_place_is_found_again() {
    let token = TokenKey {
        token: "arx".to_owned(),
        label: "root".to_owned(),
        extra: Map::new(),
    };
    let socket = SocketKey {
        key: "projects/p/keys/root".to_owned(),
        extra: Map::new(),
    };
    for (place, text) in [
        (KeyPlace::Files, json!("files")),
        (KeyPlace::Erased, json!("erased")),
        (
            KeyPlace::Stored(Pkcs8(Zeroizing::new(vec![1, 2, 3]))),
            json!({"stored": "AQID"}),
        ),
        (
            KeyPlace::Pkcs11(token),
            json!({"pkcs11": {"token": "arx", "label": "root"}}),
        ),
        (
            KeyPlace::Socket(socket),
            json!({"socket": {"key": "projects/p/keys/root"}}),
        ),
    ] {
        let written = serde_json::to_value(FormOf(&place)).expect("it is written");
        assert_eq!(written, text);
        let read = read(&text.to_string()).expect("it reads");
        let again = serde_json::to_value(FormOf(&read)).expect("it is written");
        assert_eq!(again, text);
        assert!(!matches!(read, KeyPlace::Unknown(_)), "{text}");
    }
}

#[test]
fn a_place_of_a_newer_version_is_carried_along_and_no_damage() {
    for text in [r#""vault""#, r#"{"vault":{"path":"x"},"more":[1]}"#] {
        let place = read(text).expect("it reads");
        assert!(matches!(place, KeyPlace::Unknown(_)));
        assert_eq!(place.to_string(), "place of a newer version");
        assert!(place.is_outside());
        assert_eq!(
            format!("{place:?}"),
            "Unknown(Newer(..))",
            "it may hold a key"
        );
        let written = serde_json::to_value(FormOf(&place)).expect("it is written");
        assert_eq!(written, serde_json::from_str::<Value>(text).expect("JSON"));
    }
}

#[test]
fn a_known_place_that_is_damaged_is_not_taken_for_a_newer_one() {
    for text in [
        r#""stored""#,
        r#""pkcs11""#,
        r#"{"stored":7}"#,
        r#"{"stored":"***"}"#,
        r#"{"pkcs11":{"token":"arx"}}"#,
        r#"{"socket":{}}"#,
        r#"{"stored":"AQID","files":null}"#,
        "{}",
        "7",
    ] {
        assert!(read(text).is_err(), "{text}");
    }
}
