# The service with its models. `docker build -t imago .`, or with --build-arg RUNTIME=gpu for CUDA.
# Debian slim and not Alpine: onnxruntime has no wheels for musl.
ARG BASE=python:3.13-slim-trixie

FROM ${BASE} AS build
ARG RUNTIME=cpu
# pip works from a virtual environment of its own, so that none is left in the one that is shipped.
RUN python3 -m venv /pip && python3 -m venv --without-pip /venv
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# The libraries first and alone: a change of the code leaves this layer, nearly all of the image, as it is.
# Each file must have the digest that the lock says.
COPY requirements requirements
RUN /pip/bin/pip install --require-hashes -r requirements/build.txt \
 && /pip/bin/pip --python /venv/bin/python install --require-hashes -r requirements/${RUNTIME}.txt
COPY pyproject.toml README.md LICENSE ./
COPY app app
# Training is not shipped, so neither is its command.
RUN /pip/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /pip/bin/pip --python /venv/bin/python install --no-deps --no-index /wheels/*.whl \
 && rm /venv/bin/imago-train
# A volume that is mounted there takes over its owner: `imago keys create` may write into one, the service into the other
# how each graph is run best, so that it need not find out at each start.
RUN mkdir -m 700 /keys /cache

FROM ${BASE}
LABEL org.opencontainers.image.title="imago" \
      org.opencontainers.image.description="Self-hosted Model-as-a-Service for images" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /venv /venv
COPY --from=build --chown=10001:10001 /keys /keys
COPY --from=build --chown=10001:10001 /cache /cache
COPY models /models
# Nothing is written while serving: neither bytecode (pip has compiled it) nor temporary files.
# On this address the service starts with IMAGO_KEYS only, or where IMAGO_INSECURE_NO_AUTH says that all may call.
ENV PATH=/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    IMAGO_HOST=0.0.0.0 \
    IMAGO_PORT=8000 \
    IMAGO_MODELS=/models \
    IMAGO_CACHE=/cache \
    IMAGO_LOG_FORMAT=json
# A number and not a name: Kubernetes' runAsNonRoot can check only that.
USER 10001:10001
WORKDIR /models
EXPOSE 8000
# No curl here, and no urllib.request, which would ask a proxy named in the environment.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python3", "-c", "\
import http.client, os, ssl, sys; \
place = '127.0.0.1', int(os.environ['IMAGO_PORT']); \
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT); \
tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE; \
asked = http.client.HTTPSConnection(*place, timeout=4, context=tls) if os.environ.get('IMAGO_TLS_CERTIFICATE') \
else http.client.HTTPConnection(*place, timeout=4); \
asked.request('GET', '/readyz'); \
sys.exit(asked.getresponse().status != 200)"]
ENTRYPOINT ["imago"]
CMD ["serve"]
