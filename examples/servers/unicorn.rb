# frozen_string_literal: true

# unicorn's own settings for unicorn.toml.
require 'socket'

listen "127.0.0.1:#{ENV.fetch('PORT', '8080')}"
worker_processes 2
preload_app true

# READY=1 for psflip, from a worker that has loaded the application.
notify_socket = ENV.delete('NOTIFY_SOCKET')
after_worker_ready do |_server, _worker|
  if notify_socket
    notifier = Socket.new(:UNIX, :DGRAM)
    notifier.send('READY=1', 0, Socket.sockaddr_un(notify_socket.sub(/\A@/, "\0")))
    notifier.close
  end
end
