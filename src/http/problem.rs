//! The one place where errors become HTTP answers: problem documents (RFC 9457).

use http_body_util::Full;
use hyper::{
    Response, StatusCode,
    header::{
        ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE,
        WWW_AUTHENTICATE,
    },
};
use serde::Serialize;

use super::{ResponseBody, idempotency::KeyError};
use crate::{node::NodeError, protocol::event::EventError};

/// A refused request: what happened, where, what to do. Nothing was delivered.
#[derive(Clone, Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Problem(Box<Document>);

#[derive(Clone, Debug, Serialize)]
struct Document {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    code: &'static str,
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    excerpt: Option<String>,
    #[serde(skip)]
    allow: Option<&'static str>,
    #[serde(skip)]
    retry_after: Option<u64>,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self(Box::new(Document {
            kind: format!("urn:fanfare:problem:{code}"),
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            code,
            detail: detail.into(),
            offset: None,
            length: None,
            excerpt: None,
            allow: None,
            retry_after: None,
        }))
    }

    pub(crate) fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// A fault of the server itself.
    pub(crate) fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    pub(crate) fn not_found(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    pub(crate) fn method(allow: &'static str) -> Self {
        let mut problem = Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            format!("this path takes {allow}"),
        );
        problem.0.allow = Some(allow);
        problem
    }

    /// 503, to be tried again after one to three seconds: a jitter, so that those refused together do not come back
    /// together.
    pub(crate) fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        let mut problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail);
        problem.0.retry_after = Some(1 + uuid::Uuid::new_v4().as_u128() as u64 % 3);
        problem
    }

    /// The same, with more said after what it says.
    pub(crate) fn but(mut self, more: &str) -> Self {
        self.0.detail.push_str("; ");
        self.0.detail.push_str(more);
        self
    }

    pub(crate) fn detail(&self) -> &str {
        &self.0.detail
    }

    pub(crate) fn code(&self) -> &'static str {
        self.0.code
    }

    pub(crate) fn status(&self) -> u16 {
        self.0.status
    }

    pub(crate) fn into_response(self) -> Response<ResponseBody> {
        // A struct of strings and numbers always serializes.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = Response::new(Full::from(body));
        *response.status_mut() =
            StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();

        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        if let Some(allow) = self.0.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }

        if let Some(seconds) = self.0.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }

        if self.0.status == StatusCode::UPGRADE_REQUIRED.as_u16() {
            // RFC 9110, section 15.5.22, and RFC 6455, section 4.4, ask for both.
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        }

        if self.0.status == StatusCode::UNAUTHORIZED.as_u16() {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<NodeError> for Problem {
    fn from(error: NodeError) -> Self {
        let (code, detail) = (error.code(), error.to_string());
        match error {
            NodeError::Filter { error, source_text } => {
                let mut problem = Self::bad_request(code, detail);
                problem.0.offset = Some(error.offset());
                problem.0.length = Some(error.length());
                problem.0.excerpt = Some(error.excerpt(&source_text));
                problem
            }
            NodeError::TooManyNames { .. }
            | NodeError::NameTooLong { .. }
            | NodeError::Event(_)
            | NodeError::CannotStore { .. }
            | NodeError::EmptyName
            | NodeError::Later
            | NodeError::Claims(_)
            | NodeError::UnfitClaims(_) => Self::bad_request(code, detail),
            NodeError::TooMuchToStore { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, code, detail)
            }
            NodeError::Busy(_)
            | NodeError::History(_)
            | NodeError::Away { .. }
            | NodeError::Revocations(_) => Self::unavailable(code, detail),
            NodeError::NoUsers => Self::new(StatusCode::CONFLICT, code, detail),
            NodeError::Failed => Self::new(StatusCode::INTERNAL_SERVER_ERROR, code, detail),
        }
    }
}

impl From<EventError> for Problem {
    fn from(error: EventError) -> Self {
        Self::bad_request(error.code(), error.to_string())
    }
}

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        let detail = error.to_string();
        match error {
            KeyError::Length(_) => Self::bad_request("idempotency_key_length", detail),
            KeyError::OtherBody => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency_key_reused",
                detail,
            ),
            KeyError::Running => Self::unavailable("idempotency_key_running", detail),
            KeyError::Full => Self::unavailable("idempotency_store_full", detail),
        }
    }
}
