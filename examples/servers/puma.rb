# frozen_string_literal: true

# Puma's settings for puma.toml and puma-cluster.toml: Puma sends READY=1 to psflip when it serves, in cluster mode when every
# worker does. Puma 6, or Puma with the gem sd_notify, does this by itself; remove this code then.
require 'socket'

# Puma 5 would look for the gem sd_notify, and complain that it is missing.
notify_socket = ENV.delete('NOTIFY_SOCKET')

Puma::Plugins.register('notify', Class.new(Puma::Plugin) do
  define_method(:start) do |launcher|
    launcher.events.on_booted do
      if notify_socket
        notifier = Socket.new(:UNIX, :DGRAM)
        notifier.send('READY=1', 0, Socket.sockaddr_un(notify_socket.sub(/\A@/, "\0")))
        notifier.close
      end
    end
  end
end)
plugin 'notify'
