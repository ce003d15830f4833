"""A Kubeflow Pipelines server: how to reach it, and what its refusals mean.

Reading is tried again after a dropped connection or a 5xx answer, writing never. Whatever goes wrong is an
`InputError` that says what was being done, what the server said and what to do. Tokens and cookies are in no
message.
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

BACK_OFF_SECONDS = (0.3, 1.0)
_CONNECT_SECONDS = 10.0
_NO_HOST = api.Configuration().host  # what kfp.Client is left with when it finds no server
_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_AUTHENTICATE = (
    "pass --existing-token or --cookies (or their environment variables, see --help), use a kubeconfig that may "
    "reach the cluster, or run inside it with a service account token for Kubeflow Pipelines"
)


@dataclass(frozen=True)
class Connection:
    """Where the server is and how to authenticate, as kfp.Client takes it."""

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
    """The server knows no such thing."""


class Conflict(InputError):
    """The server has something that stands against it."""


class Unreachable(InputError):
    """The connection failed, or the server did: asking again may help."""

    def __init__(self, message: str, again: bool) -> None:
        super().__init__(message)
        self.again = again


class _Client(kfp.Client):
    def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
        # kfp.Client.__init__ would ask five times, 5 s apart, and log each failure with a traceback.
        return api.V2beta1GetHealthzResponse(multi_user=False)


class Server:
    """A Kubeflow Pipelines server.

    Args:
        connection: where it is.

    Raises:
        InputError: it cannot be reached, is none, or wants a namespace.
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
        self._wire: Any = self.client._run_api.api_client  # all its APIs share this one
        self._wire.rest_client.pool_manager.connection_pool_kw["retries"] = False  # they would repeat a DELETE
        self.host: str = self._wire.configuration.host.rstrip("/")
        self._keep_host(self._wire.configuration)
        if host is None and self.host == _NO_HOST:
            context = f" with the context {connection.kube_context}" if connection.kube_context else ""
            raise InputError(
                f"no Kubeflow Pipelines server to talk to: no --host, not inside a cluster, no kubeconfig{context}. "
                f"Pass --host, such as https://kubeflow.example.com/pipeline"
            )
        self.ui = (connection.ui_host or host or "").rstrip("/")
        health = self.read("greeting the server", self.client.healthzs.healthz_service_get_healthz)
        self.namespace = self._namespace(connection) if health.multi_user else None

    def _keep_host(self, configuration: Any) -> None:
        """Keeps the address when a token is refreshed.

        The Kubernetes client's hook for that, which runs before every request where a kubeconfig has a token,
        sets everything from the kubeconfig anew: the address of the Kubernetes API, and the hook itself.
        """
        configuration.host = self.host  # and without the slash at its end: paths begin with one
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
            raise InputError(f"{self.host} serves many users: name yours with --namespace")
        return str(namespace)

    def read(self, doing: str, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """The server's answer to a question, asked again where that may help.

        Args:
            doing: what for, in messages.
            method: of the generated API; the rest is its arguments.
        """
        for pause in BACK_OFF_SECONDS:
            try:
                return self._once(doing, method, *arguments, **named)
            except Unreachable as error:
                if not error.again:
                    raise
                time.sleep(pause)
        return self._once(doing, method, *arguments, **named)

    def write(self, doing: str, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """The server's answer to a demand, made once."""
        try:
            return self._once(doing, method, *arguments, **named)
        except Unreachable as error:
            if not error.again:
                raise
            raise InputError(
                f"{error}. It was not repeated, since it may have happened all the same: look before you do"
            ) from None

    def _once(self, doing: str, method: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        try:
            answer = method(*arguments, _request_timeout=(min(_CONNECT_SECONDS, self._timeout), self._timeout), **named)
        except api.ApiException as error:
            self._refused(doing, error)
        except urllib3.exceptions.HTTPError as error:
            self._failed(doing, error)
        except AttributeError as error:  # the generated client trips over its own TLS errors, which have no body
            if not isinstance(error.__context__, api.ApiException):
                raise
            self._refused(doing, error.__context__)
        kind = self._wire.last_response.getheader("content-type") or ""
        if "json" not in kind:
            raise InputError(
                f"{self.host} answered {doing} with {kind or 'something'} instead of JSON: a login page, or not the "
                f"address of Kubeflow Pipelines. To authenticate, {_AUTHENTICATE}. --host is the address below "
                f"which /apis/v2beta1/healthz answers, such as https://kubeflow.example.com/pipeline"
            )
        return answer

    def _refused(self, doing: str, error: Any) -> NoReturn:
        said = _message(error.body)
        where = f"{self.host}, asked while {doing}, answered {error.status}{f': {said}' if said else ''}"
        match error.status:
            case 0 | None:
                raise InputError(
                    f"no secure connection to {self.host}: {error.reason}. A certificate of your own "
                    "authority goes into --ssl-ca-cert; http:// servers need http:// in --host"
                )
            case 401:
                raise InputError(f"{where}. It does not know who you are: {_AUTHENTICATE}")
            case 403:
                namespace = f" in the namespace {self.namespace}" if getattr(self, "namespace", None) else ""
                raise InputError(f"{where}. You may not do this{namespace}; with another identity, {_AUTHENTICATE}")
            case 404:
                raise NotFound(where)
            case 409:
                raise Conflict(where)
            case status if 300 <= status < 400:
                target = urllib3.util.parse_url((error.headers or {}).get("location", ""))
                to = f" to {target.scheme}://{target.host}{target.path or ''}" if target.host else ""
                raise InputError(
                    f"{self.host} sends elsewhere{to}: a login page, or its address has changed. If it is a login "
                    f"page, {_AUTHENTICATE}"
                )
            case status if status >= 500:
                raise Unreachable(where, again=True)
        raise InputError(where)

    def _failed(self, doing: str, error: Exception) -> NoReturn:
        address = urllib3.util.parse_url(self.host).netloc or self.host
        if isinstance(error, urllib3.exceptions.NameResolutionError):
            raise Unreachable(f"there is no host {address}: is --host {self.host} right?", again=False)
        if isinstance(error, urllib3.exceptions.NewConnectionError):
            raise Unreachable(
                f"{address} refused the connection: is --host {self.host} right, and, if it is a "
                "`kubectl port-forward`, is that still running?",
                again=False,
            )
        if isinstance(error, urllib3.exceptions.ConnectTimeoutError):
            raise Unreachable(f"{address} does not answer: is it the right --host, and reachable?", again=False)
        if isinstance(error, urllib3.exceptions.ReadTimeoutError):
            message = f"{address} has not answered for {self._timeout:g} s while {doing} (--timeout)"
            raise Unreachable(message, again=True)
        if isinstance(error, urllib3.exceptions.ProtocolError):
            raise Unreachable(f"{address} dropped the connection while {doing}", again=True)
        raise InputError(f"cannot talk to {self.host} while {doing}: {error}")


def _message(body: str | None) -> str:
    """What the server says for people in an error's body."""
    try:
        said = json.loads(body or "{}")
    except ValueError:
        title = re.search(r"<title>(.*?)</title>", body or "", re.DOTALL | re.IGNORECASE)
        return " ".join((title[1] if title else body or "").split())[:300]
    if not isinstance(said, dict):
        return str(said)[:300]
    message = said.get("message") or said.get("error_message") or said.get("error") or ""
    details = said.get("error_details") or ""
    return " ".join(f"{message} {details if details != message else ''}".split())[:600]
