# A server on the CPU: mount a bundle at /bundle. The
# workflow docker builds it and runs --version and serve --help; no bundle has been served from it.
FROM python:3.11-slim
WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY speechprune_ort speechprune_ort
COPY export export
COPY runtime runtime
RUN pip install --no-cache-dir -c constraints.txt '.[cpu,media,serve]' \
    && rm -rf /source \
    && useradd --create-home speech
WORKDIR /home/speech
USER speech
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --start-period=2m CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health')"]
ENTRYPOINT ["speechprune-ort"]
CMD ["serve", "/bundle", "--host", "0.0.0.0"]
