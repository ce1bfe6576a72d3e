# Not built here: the machine on which the kit was made has no Docker.
#
#   docker build -t sglang-shm-kit .
#   docker run --rm --shm-size=1g sglang-shm-kit
#
# Why --shm-size: Docker gives a container 64 MB of /dev/shm. The pixels of one large image take more than that,
# and Linux ends a process with SIGBUS that writes beyond the room. `make doctor` says how much there is.
FROM python:3.12-bookworm
RUN useradd --create-home reader
USER reader
WORKDIR /home/reader/kit
COPY --chown=reader . .
RUN make setup && rm -rf ~/.cache/uv
CMD ["make", "demo"]
