//! Paths of SPIFFE ids with places for names in them, such as
//! `/ns/{namespace}/sa/{serviceaccount}`.

/// A path, checked to give different service accounts different paths wherever it names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Name(Place),
}

/// What may stand in braces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Cluster,
    Namespace,
    ServiceAccount,
}

/// The names that are put in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names<'a> {
    pub(super) cluster: &'a str,
    pub(super) namespace: &'a str,
    pub(super) service_account: &'a str,
}

impl Template {
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let path = text.strip_prefix('/').ok_or("it does not start with /")?;
        if path.is_empty() || path.ends_with('/') {
            return Err("it ends with /".to_owned());
        }
        let mut parts = Vec::new();
        for segment in path.split('/') {
            parts.push(Part::Text("/".to_owned()));
            segment_parts(segment, &mut parts)?;
        }
        if is_reserved(text) {
            return Err("/arx is reserved for the parts of Arx itself".to_owned());
        }
        Ok(Self(parts))
    }

    pub(super) fn names(&self, place: Place) -> bool {
        self.0.contains(&Part::Name(place))
    }

    pub(super) fn fill(&self, names: Names<'_>) -> String {
        let mut path = String::with_capacity(64);
        for part in &self.0 {
            path.push_str(match part {
                Part::Text(text) => text,
                Part::Name(Place::Cluster) => names.cluster,
                Part::Name(Place::Namespace) => names.namespace,
                Part::Name(Place::ServiceAccount) => names.service_account,
            });
        }
        path
    }
}

/// Whether `path` is one that only parts of Arx have.
pub(super) fn is_reserved(path: &str) -> bool {
    path == "/arx" || path.starts_with("/arx/")
}

fn segment_parts(segment: &str, parts: &mut Vec<Part>) -> Result<(), String> {
    let (before, name, after) = match segment.split_once('{') {
        None => (segment, None, ""),
        Some((before, rest)) => {
            let (name, after) = rest
                .split_once('}')
                .ok_or_else(|| format!("\"{segment}\" has a {{ without its }}"))?;
            (before, Some(name), after)
        }
    };
    // Two names in one segment could be cut in more than one way: a-b and c, a and b-c.
    if after.contains('{') {
        return Err(format!(
            "\"{segment}\" has two names in one segment, so different service accounts could get one identity"
        ));
    }
    let place = match name {
        None => None,
        Some("cluster") => Some(Place::Cluster),
        Some("namespace") => Some(Place::Namespace),
        Some("serviceaccount") => Some(Place::ServiceAccount),
        Some(other) => {
            return Err(format!(
                "{{{other}}} is unknown; there are {{namespace}}, {{serviceaccount}} and {{cluster}}"
            ));
        }
    };
    for text in [before, after] {
        if let Some(c) = text
            .chars()
            .find(|c| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_'))
        {
            return Err(format!(
                "it contains {c:?}; a SPIFFE id has only a-z A-Z 0-9 . - _ between its slashes"
            ));
        }
    }
    if place.is_none() && matches!(before, "" | "." | "..") {
        return Err(format!(
            "it has the segment \"{before}\"; empty, . and .. are not allowed"
        ));
    }
    parts.push(Part::Text(before.to_owned()));
    parts.extend(place.map(Part::Name));
    parts.push(Part::Text(after.to_owned()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_put_where_the_template_has_them() {
        let template =
            Template::parse("/{cluster}/ns-{namespace}/sa/{serviceaccount}.x").expect("sound");
        let path = template.fill(Names {
            cluster: "c1",
            namespace: "payments",
            service_account: "api",
        });
        assert_eq!(path, "/c1/ns-payments/sa/api.x");
    }

    #[test]
    fn what_is_not_a_path_or_could_mix_accounts_up_is_refused() {
        for (text, reason) in [
            ("", "start with /"),
            ("ns/{namespace}", "start with /"),
            ("/", "ends with /"),
            ("/ns/{namespace}/", "ends with /"),
            ("/ns//x", "segment"),
            ("/ns/../x", "segment"),
            ("/ns/{namespace", "without its }"),
            ("/ns/namespace}", "contains"),
            ("/ns/{}", "unknown"),
            ("/ns/{Namespace}", "unknown"),
            ("/ns/{pod}", "unknown"),
            ("/{namespace}-{serviceaccount}", "two names"),
            ("/ns/a b", "contains"),
            ("/ns/%41", "contains"),
            ("/arx", "reserved"),
            ("/arx/node/{cluster}/{namespace}", "reserved"),
        ] {
            let refused = Template::parse(text).expect_err(text);
            assert!(refused.contains(reason), "{text}: {refused}");
        }
        assert!(
            Template::parse("/arxes/{namespace}").is_ok(),
            "only /arx itself"
        );
    }
}
