"""Connection to a Kubeflow Pipelines server, and what its errors mean.

Reads are retried after a dropped connection or a 5xx response, writes never. Every failure is an `InputError` that
states what was attempted, what the server returned and what to do. No message contains tokens or cookies.
"""

import contextlib
import io
import json
import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import kfp
import kfp_server_api as api
import urllib3

from components.shared.errors import InputError

BACKOFF_SECONDS = (0.3, 1.0)
_CONNECT_SECONDS = 10.0
_DEFAULT_HOST = api.Configuration().host  # kfp.Client falls back to it when it finds no server
_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_AUTHENTICATE = (
    "pass --existing-token or --cookies (or set their environment variables, see --help), use a kubeconfig with access "
    "to the cluster, or run inside the cluster with a service account token for Kubeflow Pipelines"
)


@dataclass(frozen=True)
class Connection:
    """Address of the server and credentials, as kfp.Client takes them."""

    host: str | None = None
    ui_host: str | None = None
    namespace: str | None = None
    kfp_namespace: str = "kubeflow"
    existing_token: str | None = field(default=None, repr=False)
    cookies: str | None = field(default=None, repr=False)
    kube_context: str | None = None
    ssl_ca_cert: str | None = None
    timeout: float = 30.0


class NotFound(InputError):
    """The requested object does not exist on the server (HTTP 404)."""


class Conflict(InputError):
    """The request conflicts with the state of the server (HTTP 409)."""


class Unreachable(InputError):
    """The connection or the server failed; `retryable` tells whether another attempt may succeed."""

    def __init__(self, message: str, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


class _Client(kfp.Client):
    def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
        # kfp.Client.__init__ would try five times, 5 s apart, and log each failure with a traceback.
        return api.V2beta1GetHealthzResponse(multi_user=False)


class Server:
    """A Kubeflow Pipelines server.

    Args:
        connection: address and credentials.

    Raises:
        InputError: the server cannot be reached, is not Kubeflow Pipelines, or requires a namespace.
    """

    def __init__(self, connection: Connection) -> None:
        host = connection.host.rstrip("/") if connection.host else None
        if host and "://" not in host:
            host = f"https://{host}"
        self._timeout = connection.timeout
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            self.client: Any = _Client(
                host=host,
                namespace=connection.kfp_namespace,
                existing_token=connection.existing_token,
                cookies=connection.cookies,
                kube_context=connection.kube_context,
                ssl_ca_cert=connection.ssl_ca_cert,
            )
        self._api_client: Any = self.client._run_api.api_client  # shared by all its APIs
        self._api_client.rest_client.pool_manager.connection_pool_kw["retries"] = False  # urllib3 would retry a DELETE
        self.host: str = self._api_client.configuration.host.rstrip("/")
        self._keep_host(self._api_client.configuration)
        if host is None and self.host == _DEFAULT_HOST:
            context = f" with the context {connection.kube_context}" if connection.kube_context else ""
            raise InputError(
                f"no Kubeflow Pipelines server found: no --host, not inside a cluster, and no kubeconfig{context}. "
                f"Pass --host, such as https://kubeflow.example.com/pipeline"
            )
        self.ui = (connection.ui_host or host or "").rstrip("/")
        health = self.read("checking the server's health", self.client.healthzs.healthz_service_get_healthz)
        self.namespace = self._namespace(connection) if health.multi_user else None

    def _keep_host(self, configuration: Any) -> None:
        """Keeps the server's address when a token is refreshed.

        With a token from a kubeconfig, the Kubernetes client runs its refresh hook before every request. The hook
        resets everything from the kubeconfig: the host (to the Kubernetes API's address) and the hook itself.
        """
        configuration.host = self.host  # without a trailing slash: request paths begin with one
        if (refresh := configuration.refresh_api_key_hook) is not None:

            def refresh_and_keep_host(configuration: Any) -> None:
                refresh(configuration)
                configuration.host = self.host
                configuration.refresh_api_key_hook = refresh_and_keep_host

            configuration.refresh_api_key_hook = refresh_and_keep_host

    def _namespace(self, connection: Connection) -> str:
        remembered = self.client.get_user_namespace()
        remembered = "" if remembered == connection.kfp_namespace else remembered
        pod = _POD_NAMESPACE.read_text() if _POD_NAMESPACE.exists() else ""
        if not (namespace := connection.namespace or remembered or pod):
            raise InputError(f"{self.host} is a multi-user installation: pass your namespace with --namespace")
        return str(namespace)

    def read(self, action: str, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Returns the server's response to a read request, which is retried if that may help.

        Args:
            action: what the request does, for messages: "listing runs".
            method: method of the generated API client.
            arguments: its positional arguments.
            named: its keyword arguments.
        """
        for pause in BACKOFF_SECONDS:
            try:
                return self._call(action, method, *arguments, **named)
            except Unreachable as error:
                if not error.retryable:
                    raise
                time.sleep(pause)
        return self._call(action, method, *arguments, **named)

    def write(self, action: str, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Returns the server's response to a write request, which is never retried; arguments as for `read`."""
        try:
            return self._call(action, method, *arguments, **named)
        except Unreachable as error:
            if not error.retryable:
                raise
            raise InputError(
                f"{error}. The request was not retried, since it may have taken effect: check before you repeat it"
            ) from None

    def _call(self, action: str, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        try:
            answer = method(*arguments, _request_timeout=(min(_CONNECT_SECONDS, self._timeout), self._timeout), **named)
        except api.ApiException as error:
            self._raise_for_status(action, error)
        except urllib3.exceptions.HTTPError as error:
            self._raise_for_connection(action, error)
        except AttributeError as error:  # the generated client trips over its own TLS errors, which have no body
            if not isinstance(error.__context__, api.ApiException):
                raise
            self._raise_for_status(action, error.__context__)
        kind = self._api_client.last_response.getheader("content-type") or ""
        if "json" not in kind:
            raise InputError(
                f"{action} failed: {self.host} returned {kind or 'an unknown content type'} instead of JSON. Either "
                f"this is a login page, or --host is not the address of Kubeflow Pipelines. To authenticate, "
                f"{_AUTHENTICATE}. --host is the address under which /apis/v2beta1/healthz responds, such as "
                f"https://kubeflow.example.com/pipeline"
            )
        return answer

    def _raise_for_status(self, action: str, error: Any) -> NoReturn:
        detail = _message(error.body)
        failure = f"{action} failed: {self.host} returned {error.status}{f': {detail}' if detail else ''}"
        match error.status:
            case 0 | None:
                raise InputError(
                    f"cannot establish a secure connection to {self.host}: {error.reason}. For a private certificate "
                    "authority, pass its certificate with --ssl-ca-cert; for a plain HTTP server, use http:// in --host"
                )
            case 401:
                raise InputError(f"{failure}. You are not authenticated: {_AUTHENTICATE}")
            case 403:
                namespace = f" in the namespace {self.namespace}" if getattr(self, "namespace", None) else ""
                raise InputError(
                    f"{failure}. You do not have permission to do this{namespace}. To use another identity, "
                    f"{_AUTHENTICATE}"
                )
            case 404:
                raise NotFound(failure)
            case 409:
                raise Conflict(failure)
            case status if 300 <= status < 400:
                target = urllib3.util.parse_url((error.headers or {}).get("location", ""))
                to = f"{target.scheme}://{target.host}{target.path or ''}" if target.host else "another address"
                raise InputError(
                    f"{self.host} redirects to {to}: either this is a login page, or the server's address has "
                    f"changed. For a login page, {_AUTHENTICATE}"
                )
            case status if status >= 500:
                raise Unreachable(failure, retryable=True)
        raise InputError(failure)

    def _raise_for_connection(self, action: str, error: Exception) -> NoReturn:
        address = urllib3.util.parse_url(self.host).netloc or self.host
        if isinstance(error, urllib3.exceptions.NameResolutionError):
            raise Unreachable(f"cannot resolve {address}: check --host {self.host}", retryable=False)
        if isinstance(error, urllib3.exceptions.NewConnectionError):
            raise Unreachable(
                f"{address} refused the connection: check --host {self.host}; if it is a `kubectl port-forward`, check "
                "that it is still running",
                retryable=False,
            )
        if isinstance(error, urllib3.exceptions.ConnectTimeoutError):
            raise Unreachable(
                f"connecting to {address} timed out: check that --host {self.host} is correct and reachable",
                retryable=False,
            )
        if isinstance(error, urllib3.exceptions.ReadTimeoutError):
            message = f"{address} did not respond within {self._timeout:g} s while {action} (--timeout)"
            raise Unreachable(message, retryable=True)
        if isinstance(error, urllib3.exceptions.ProtocolError):
            raise Unreachable(f"{address} dropped the connection while {action}", retryable=True)
        raise InputError(f"cannot communicate with {self.host} while {action}: {error}")


def _message(body: str | None) -> str:
    """Extracts the human-readable message from an error response."""
    try:
        parsed = json.loads(body or "{}")
    except ValueError:
        title = re.search(r"<title>(.*?)</title>", body or "", re.DOTALL | re.IGNORECASE)
        return " ".join((title[1] if title else body or "").split())[:300]
    if not isinstance(parsed, dict):
        return str(parsed)[:300]
    message = parsed.get("message") or parsed.get("error_message") or parsed.get("error") or ""
    details = parsed.get("error_details") or ""
    return " ".join(f"{message} {details if details != message else ''}".split())[:600]
