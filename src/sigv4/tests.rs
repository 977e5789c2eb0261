//! AWS's published test vectors, and what is refused.

use proptest::prelude::*;

use super::*;

const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const DATE: &str = "20150830T123600Z";
const SCOPE: Scope<'_> = Scope { region: "us-east-1", service: "service" };
const UNRESERVED: &str = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// `get-vanilla`: the signature of the plainest request.
const VANILLA: &str = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";

/// A request with AWS's example credentials.
#[derive(Clone)]
struct Example {
    method: &'static str,
    path: String,
    query: String,
    headers: Vec<(&'static str, String)>,
    signed: String,
    body: &'static [u8],
    signature: String,
}

impl Example {
    /// Signs all headers that it has.
    fn new(
        method: &'static str,
        path: &str,
        query: &str,
        more: &[(&'static str, &str)],
        signature: &str,
    ) -> Self {
        let mut headers = vec![("host", "example.amazonaws.com".to_owned()), ("x-amz-date", DATE.to_owned())];
        headers.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        let names: BTreeSet<&str> = headers.iter().map(|(name, _)| *name).collect();
        Self {
            method,
            path: path.to_owned(),
            query: query.to_owned(),
            signed: names.into_iter().collect::<Vec<_>>().join(";"),
            headers,
            body: b"",
            signature: signature.to_owned(),
        }
    }

    fn vanilla() -> Self {
        Self::new("GET", "/", "", &[], VANILLA)
    }

    fn authorization(&self) -> String {
        format!(
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders={}, Signature={}",
            self.signed, self.signature
        )
    }

    fn verify(&self) -> Result<(), AuthError> {
        self.verify_with(&self.authorization(), SCOPE, DATE, SECRET)
    }

    fn verify_with(&self, header: &str, scope: Scope<'_>, now: &str, secret: &str) -> Result<(), AuthError> {
        let mut headers: Vec<_> =
            self.headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        headers.push(("authorization", header.as_bytes()));
        let head = Head { method: self.method, path: &self.path, query: &self.query, headers };
        let claim = Claim::read(&head)?;
        claim.check(scope, parse_date(now).unwrap())?;
        claim.verify(&head, &Sha256::digest(self.body).into(), secret)
    }
}

fn published() -> Vec<(&'static str, Example)> {
    let get = |path: &str, query: &str, signature: &str| Example::new("GET", path, query, &[], signature);
    let with = |method, headers: &[(&'static str, &str)], signature: &str| {
        Example::new(method, "/", "", headers, signature)
    };
    let unreserved_query = format!("{UNRESERVED}={UNRESERVED}");
    let mut form = with(
        "POST",
        &[("content-type", "application/x-www-form-urlencoded")],
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    );
    form.body = b"Param1=value1";
    vec![
        ("get-vanilla", Example::vanilla()),
        ("get-vanilla-query", get("/", "", VANILLA)),
        (
            "get-vanilla-empty-query-key",
            get("/", "Param1=value1", "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb"),
        ),
        (
            "get-vanilla-query-order-key-case",
            get(
                "/",
                "Param2=value2&Param1=value1",
                "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
            ),
        ),
        (
            "get-vanilla-query-order-value",
            get(
                "/",
                "Param1=value2&Param1=value1",
                "5772eed61e12b33fae39ee5e7012498b51d56abc0abb7c60486157bd471c4694",
            ),
        ),
        (
            "get-vanilla-query-unreserved",
            get("/", &unreserved_query, "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197"),
        ),
        (
            "get-vanilla-utf8-query",
            get("/", "\u{1234}=bar", "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04"),
        ),
        (
            "get-unreserved",
            get(
                &format!("/{UNRESERVED}"),
                "",
                "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
            ),
        ),
        (
            "get-utf8",
            get("/\u{1234}", "", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
        ),
        (
            "get-space",
            get("/example space/", "", "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741"),
        ),
        ("get-relative", get("/example/..", "", VANILLA)),
        ("get-relative-relative", get("/example1/example2/../..", "", VANILLA)),
        ("get-slash", get("//", "", VANILLA)),
        ("get-slash-dot-slash", get("/./", "", VANILLA)),
        (
            "get-slashes",
            get("//example//", "", "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84"),
        ),
        (
            "get-slash-pointless-dot",
            get("/./example", "", "ef75d96142cf21edca26f06005da7988e4f8dc83a165a80865db7089db637ec5"),
        ),
        (
            "get-header-key-duplicate",
            with(
                "GET",
                &[("my-header1", "value2"), ("my-header1", "value2"), ("my-header1", "value1")],
                "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
            ),
        ),
        (
            "get-header-value-order",
            with(
                "GET",
                &[
                    ("my-header1", "value4"),
                    ("my-header1", "value1"),
                    ("my-header1", "value3"),
                    ("my-header1", "value2"),
                ],
                "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01",
            ),
        ),
        (
            "get-header-value-trim",
            with(
                "GET",
                &[("my-header1", " value1"), ("my-header2", " \"a   b   c\"")],
                "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
            ),
        ),
        (
            "post-vanilla",
            with("POST", &[], "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        ),
        (
            "post-header-key-sort",
            with(
                "POST",
                &[("my-header1", "value1")],
                "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
            ),
        ),
        (
            "post-header-value-case",
            with(
                "POST",
                &[("my-header1", "VALUE1")],
                "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d",
            ),
        ),
        ("post-x-www-form-urlencoded", form),
    ]
}

#[test]
fn the_published_vectors_verify_and_nothing_near_them_does() {
    for (name, example) in published() {
        assert_eq!(example.verify(), Ok(()), "{name}");
        let refused = |what: &str, changed: &Example| {
            assert_eq!(changed.verify().unwrap_err().kind, AuthKind::Invalid, "{name}, {what}");
        };
        refused("method", &Example { method: "PUT", ..example.clone() });
        refused("path", &Example { path: format!("{}/x", example.path), ..example.clone() });
        refused("query", &Example { query: format!("{}&x", example.query), ..example.clone() });
        refused("body", &Example { body: b"x", ..example.clone() });
        let mut host = example.clone();
        host.headers[0].1.push('x');
        refused("host", &host);
        let other = example.verify_with(&example.authorization(), SCOPE, DATE, "another secret");
        assert_eq!(other.unwrap_err().kind, AuthKind::Invalid, "{name}");
        let last = if example.signature.ends_with('0') { "1" } else { "0" };
        refused(
            "signature",
            &Example { signature: format!("{}{last}", &example.signature[..63]), ..example },
        );
    }
}

#[test]
fn a_path_that_came_encoded_is_encoded_once_more() {
    let head = |path| Head { method: "GET", path, query: "", headers: Vec::new() };
    let canonical = canonical::request(&head("/a%20b"), &[], &[0; 32]);
    assert!(canonical.starts_with(b"GET\n/a%2520b\n"));
    let canonical = canonical::request(&Head { query: "a=%20%zz+", ..head("/") }, &[], &[0; 32]);
    assert!(canonical.starts_with(b"GET\n/\na=%20%25zz%2B\n"));
}

#[test]
fn the_time_is_bounded_both_ways() {
    let example = Example::vanilla();
    let at = |now| example.verify_with(&example.authorization(), SCOPE, now, SECRET);
    for now in ["20150830T122100Z", "20150830T125100Z"] {
        assert_eq!(at(now), Ok(()), "{now}");
    }
    let expired = "Signature expired: 20150830T123600Z is now earlier than 20150830T123601Z (20150830T125101Z - 15 min.)";
    let early = "Signature not yet current: 20150830T123600Z is still later than 20150830T123559Z (20150830T122059Z + 15 min.)";
    for (now, message) in [("20150830T125101Z", expired), ("20150830T122059Z", early)] {
        assert_eq!(at(now), Err(AuthError::new(AuthKind::Invalid, message)));
    }
}

#[test]
fn the_scope_must_be_this_service_on_this_day() {
    let example = Example::vanilla();
    for (from, to, message) in [
        ("us-east-1", "us-east-2", "Credential should be scoped to a valid region, not 'us-east-2'."),
        ("/service/", "/s3/", "Credential should be scoped to correct service: 'service'."),
        ("20150830", "20150831", "Date in Credential scope does not match YYYYMMDD"),
    ] {
        let header = example.authorization().replace(from, to);
        let refused = example.verify_with(&header, SCOPE, DATE, SECRET).unwrap_err();
        assert_eq!(refused.kind, AuthKind::Invalid);
        assert!(refused.message.starts_with(message), "{refused}");
    }
}

#[test]
fn what_is_not_signed_or_not_there_is_refused() {
    let kind = |example: &Example| example.verify().unwrap_err().kind;
    let mut unsigned = Example::vanilla();
    unsigned.headers.push(("x-amz-target", "TrentService.ListKeys".to_owned()));
    assert_eq!(kind(&unsigned), AuthKind::Invalid, "an x-amz- header must be signed");
    assert_eq!(kind(&Example { signed: "x-amz-date".to_owned(), ..Example::vanilla() }), AuthKind::Invalid);
    assert_eq!(kind(&Example { signed: "host".to_owned(), ..Example::vanilla() }), AuthKind::Invalid);
    let absent = "host;not-there;x-amz-date".to_owned();
    assert_eq!(kind(&Example { signed: absent, ..Example::vanilla() }), AuthKind::Invalid);
    let mut twice = Example::vanilla();
    twice.headers.push(("x-amz-date", DATE.to_owned()));
    assert_eq!(kind(&twice), AuthKind::Incomplete, "which of two dates?");
    let mut token = Example::vanilla();
    token.headers.push(("x-amz-security-token", "t".to_owned()));
    assert_eq!(kind(&token), AuthKind::Unrecognized);
    let presigned = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=00".to_owned();
    assert_eq!(kind(&Example { query: presigned, ..Example::vanilla() }), AuthKind::Missing);
    let head = Head { method: "GET", path: "/", query: "", headers: Vec::new() };
    assert_eq!(Claim::read(&head).unwrap_err(), AuthError::missing());
}

#[test]
fn a_header_of_another_form_is_incomplete() {
    let good = Example::vanilla().authorization();
    for header in [
        String::new(),
        "Bearer abc".to_owned(),
        good.replace("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA512"),
        good.replace("AWS4-HMAC-SHA256 ", "AWS4-HMAC-SHA256"),
        good.replace("aws4_request", "aws5_request"),
        good.replace("/service/", "/"),
        good.replace("AKIDEXAMPLE", "AK/ID"),
        good.replace("Credential=", "Credentials="),
        good.replace("SignedHeaders=host;x-amz-date, ", ""),
        good.replace("host;x-amz-date", ""),
        good.replace("host;x-amz-date", "x-amz-date;host"),
        good.replace("host;x-amz-date", "host;host;x-amz-date"),
        good.replace("host;x-amz-date", "Host;x-amz-date"),
        good.replace(VANILLA, &VANILLA.to_uppercase()),
        good.replace(VANILLA, &VANILLA[..62]),
        good.replace(VANILLA, &format!("{VANILLA}00")),
        good.replace(VANILLA, &VANILLA.replace('5', "g")),
        format!("{good}, Signature={VANILLA}"),
        format!("{good},"),
    ] {
        let refused = Example::vanilla().verify_with(&header, SCOPE, DATE, SECRET);
        assert_eq!(refused.unwrap_err().kind, AuthKind::Incomplete, "{header}");
    }
    // Spaces after the commas are a habit, not a rule.
    let dense = good.replace(", ", ",");
    assert_eq!(Example::vanilla().verify_with(&dense, SCOPE, DATE, SECRET), Ok(()));
}

#[test]
fn dates_have_one_form() {
    for text in [
        "",
        "20150830",
        "2015-08-30T12:36",
        "20150830T123600",
        "20150830T123600z",
        "20150830 123600Z",
        "20151330T123600Z",
        "20150830T256000Z",
        "+0150830T123600Z",
        "20150830T1236000Z",
        "2015083\u{660}T12360Z",
    ] {
        assert_eq!(parse_date(text), None, "{text}");
    }
    assert_eq!(written(parse_date(DATE).unwrap()), DATE);
}

#[test]
fn fingerprints_tell_signatures_apart() {
    let claim = |example: &Example| {
        let header = example.authorization();
        let mut headers: Vec<_> =
            example.headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        headers.push(("authorization", header.as_bytes()));
        Claim::read(&Head { method: "GET", path: "/", query: "", headers }).unwrap().fingerprint()
    };
    let other = Example { signature: VANILLA.replace('5', "6"), ..Example::vanilla() };
    assert_eq!(claim(&Example::vanilla()), claim(&Example::vanilla()));
    assert_ne!(claim(&Example::vanilla()), claim(&other));
}

proptest! {
    /// Whatever a header says, it is read or refused, and never verifies.
    #[test]
    fn any_header_is_refused(
        tail: Vec<u8>,
        date: String,
        cut in 0usize..160,
        path in "(/|[.]|%|[a-z]){0,8}",
        query in "[a-z%&=/?]{0,12}",
    ) {
        let mut header = Example::vanilla().authorization().into_bytes();
        header.truncate(cut);
        header.extend(tail);
        for date in [DATE, &date] {
            let headers = vec![
                ("host", b"h".as_slice()),
                ("x-amz-date", date.as_bytes()),
                ("authorization", header.as_slice()),
            ];
            let head = Head { method: "GET", path: &path, query: &query, headers };
            if let Ok(claim) = Claim::read(&head) {
                prop_assert!(claim.verify(&head, &[0; 32], SECRET).is_err());
            }
        }
    }
}
