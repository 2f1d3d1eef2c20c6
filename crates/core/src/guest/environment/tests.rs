use super::*;
use crate::secret::Secret;

fn request(key: &str) -> ProvisionRequest {
    let mut request = ProvisionRequest::parse(
        r#"{"version":1,"instance_id":"my-bot","runtime":"native","host_port":18891,"gateway_token":"c0ffee",
            "model":"anthropic/x","telegram":{"token":"123:abc-DEF","users":[1]}}"#,
    )
    .unwrap();
    request.keys.anthropic = Some(Secret::new(key));
    request
}

/// systemd's reading of an environment file, as its manual and `env-file.c` have it: the state machine for the parts that we use.
fn systemd_reads(text: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(&c) = chars.peek() {
        if c == '#' || c == ';' {
            chars.by_ref().find(|&c| c == '\n');
            continue;
        }
        let name: String = chars.by_ref().take_while(|&c| c != '=').collect();
        assert_eq!(chars.next(), Some('"'));
        let mut value = String::new();
        loop {
            match chars.next().expect("the quote is closed") {
                '"' => break,
                '\\' => {
                    let c = chars.next().unwrap();
                    if !matches!(c, '"' | '\\' | '`' | '$') {
                        value.push('\\');
                    }
                    value.push(c);
                }
                c => value.push(c),
            }
        }
        assert_eq!(chars.next(), Some('\n'));
        out.push((name, value));
    }
    out
}

#[test]
fn the_environment_file() {
    insta::assert_snapshot!(render(&request("sk-ant-\"$HOME'\\`#;%n{}")));
}

#[test]
fn an_absent_secret_has_no_line() {
    let mut request = request("x");
    request.telegram = None;
    request.keys.anthropic = None;
    assert_eq!(render(&request).lines().count(), 2);
}

proptest::proptest! {
    #[test]
    fn every_key_arrives_byte_for_byte(key in "[!-~]{1,80}") {
        let read = systemd_reads(&render(&request(&key)));
        let wanted: Vec<(String, String)> =
            variables(&request(&key)).into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        proptest::prop_assert_eq!(read, wanted);
    }
}

#[test]
fn a_changed_secret_is_noticed() {
    let (one, two) = (render(&request("a")), render(&request("b")));
    assert!(differs("ANTHROPIC_API_KEY", Some(&one), &two));
    assert!(!differs(GATEWAY_TOKEN, Some(&one), &two));
    assert!(differs(GATEWAY_TOKEN, None, &two));
    assert!(!differs("OPENAI_API_KEY", None, &two));
    // A name that another one begins with.
    assert!(!differs("ANTHROPIC", Some(&one), &two));
}

#[test]
fn the_users_own_variables_stay() {
    let text = dotenv(
        Some("# mine\nFOO='a\nb'\nexport OPENCLAW_GATEWAY_TOKEN = old\nOPENCLAW_GATEWAY_TOKEN_X=1"),
        "new",
    );
    assert_eq!(text, "# mine\nFOO='a\nb'\nOPENCLAW_GATEWAY_TOKEN_X=1\nOPENCLAW_GATEWAY_TOKEN=new\n");
    assert_eq!(dotenv(Some(&text), "new"), text);
    assert_eq!(dotenv(None, "t"), "OPENCLAW_GATEWAY_TOKEN=t\n");
}
