# psflip alone, for `COPY --from=psflip /psflip /usr/local/bin/psflip` in the Dockerfile of an application.
# The build context is a directory with the static program:
#   docker build --tag psflip --file psflip.Dockerfile DIRECTORY
FROM scratch
COPY psflip /psflip
ENTRYPOINT ["/psflip"]
